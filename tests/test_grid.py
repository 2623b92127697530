"""Which cells are measured: those that a preset promises, named, and at home where a model was trained."""

import yaml

from audiolib.config.evaluation import EvaluatePreset
from audiolib.grid import Cell, grid_of, run_columns, trained_name, view_of
from audiolib.pretrained import Card
from audiolib.results import at_home, home, summary, table
from audiolib.views import View
from tests.conftest import ROOT
from tests.test_evaluate import preset, settings


def test_rows_name_the_fold_that_was_tested_where_there_are_folds():
    own = settings()
    assert run_columns(own)["fold"] is None
    own["data"] = yaml.safe_load((ROOT / "configs/data/esc50.yaml").read_text())
    assert table([run_columns(own)])["fold"].to_list() == [1]


def test_names_say_what_was_trained():
    preset = settings()["model"]
    assert trained_name(preset, "pretrain") == "ast-p16" and trained_name(preset, "finetune") == "flexi"
    presets = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "configs/model").glob("*.yaml")}
    names = {
        name: trained_name(presets[name], "finetune") for name in ("any", "any_aum", "aum", "aum_packs", "elastic")
    }
    told = {"any": "any", "any_aum": "any-aum", "aum": "aum", "aum_packs": "aum-packs", "elastic": "elastic"}
    assert names == told
    starts = [trained_name(presets[name], "pretrain") for name in ("any", "any_aum")]
    assert starts == ["elastic", "aum-packs"]


def test_presets_name_the_cells_they_promise():
    own, lengths = ((16, 16), 0.64), [0.32, 0.64]
    product = grid_of(preset(cells="product"), lengths, settings()).cells
    assert len(product) == len(set(product)) == 3 * 2 * 4
    axes = grid_of(preset(cells="axes"), lengths, settings()).cells
    assert all(sum((cell.patch != own[0], cell.seconds != own[1], cell.hop_ms is not None)) <= 1 for cell in axes)
    assert len(axes) == len(set(axes)) == 3 + 1 + 3
    alone = grid_of(preset(cells="axes", patch_sizes=[], seconds=[], hops_ms=[]), lengths, settings()).cells
    assert alone == [Cell(*own)]
    for path in (ROOT / "configs/evaluate").glob("*.yaml"):
        EvaluatePreset(**yaml.safe_load(path.read_text()))


def test_a_stage_that_ended_in_wider_patches_is_measured_at_those():
    own = settings()
    own["model"]["pretrain"]["phases"][-1]["method"] = "patchify"
    assert home(own).patch == {"pretrain": (16, 32), "finetune": (16, 16)}
    assert home(own).hop_ms == {"pretrain": 10.0, "finetune": 10.0}
    cells = grid_of(preset(cells="axes", patch_sizes=[]), [0.32], own).cells
    assert {(cell.patch, cell.seconds) for cell in cells} >= {((16, 32), 0.32), ((16, 32), 0.64), ((16, 16), 0.64)}
    here = {"metric": "accuracy", "hop_ms": 10.0, "seconds": 0.64, "patch_f": 16}
    found = (("pretrain", 16, 0.2), ("pretrain", 32, 0.8), ("finetune", 16, 0.9))
    rows = table([{**here, "stage": stage, "patch_t": frames, "value": value} for stage, frames, value in found])
    said = summary(rows, home(own))
    assert (said["pretrain"]["accuracy"], said["finetune"]["accuracy"]) == (0.8, 0.9)
    assert at_home(rows, "length", home(own))["value"].to_list() == [0.9, 0.8]


def test_a_corpus_with_a_hop_of_its_own_is_at_home_there():
    own = settings()
    own["data"]["source"]["frontend"] = {"kind": "stft", "sample_rate": 24000, "window_ms": 10, "hop_ms": 5}
    assert home(own).hop_ms == {"pretrain": 10.0, "finetune": 5.0}
    assert home(settings()).hop_ms == {"pretrain": 20.0, "finetune": 10.0}


def test_the_hop_that_a_pooled_model_has_anyway_is_its_own_view():
    card = Card(["a"], False, {"hop_ms": 10.0}, (16, 16), 64, 2, "avg_pool")
    assert (
        view_of(card, Cell((16, 16), 0.64, 20.0)) == view_of(card, Cell((16, 16), 0.64)) == View(64, 1, 2, "avg_pool")
    )
    assert view_of(card, Cell((16, 16), 0.64, 30.0)) == View(64, 3.0)
