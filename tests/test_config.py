"""Wrong parameters are refused in one line that names the key."""

import shutil
from pathlib import Path

import pytest
import yaml

from audiolib.config.project import Params, check
from audiolib.config.strict import SECTIONS, read_section
from audiolib.errors import AudiolibError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    return tmp_path


def change(path: Path, keys: str, value: object) -> None:
    """Set a value in a YAML file; the string `delete` removes the key."""
    content = yaml.safe_load(path.read_text())
    *above, last = keys.split(".")
    place = content
    for key in above:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if value == "delete":
        del place[last]
    else:
        place[last] = value
    path.write_text(yaml.safe_dump(content))


def test_the_shipped_parameters_and_every_preset_are_valid(project):
    for model in (ROOT / "configs/model").glob("*.yaml"):
        for data in (ROOT / "configs/data").glob("*.yaml"):
            change(project / "params.yaml", "model", model.stem)
            change(project / "params.yaml", "data", data.stem)
            assert check(project).model == model.stem


def test_a_preset_leaves_the_family_its_defaults_and_says_what_deviates(project):
    from audiolib.config.strict import read_preset
    from audiolib.config.training import ModelPreset
    from audiolib.models import create_model

    for name, positions in (("flexi", "centre"), ("ast", "stretch")):
        change(project / "params.yaml", "model", name)
        settings = read_preset(project, "model", ModelPreset).architecture.model_dump(mode="json", exclude_none=True)
        assert create_model(settings.pop("name"), 3, **settings).config.positions == positions


def test_the_sections_that_a_stage_may_read_are_those_of_the_file():
    assert set(SECTIONS) == set(Params.model_fields)


@pytest.mark.parametrize(
    "file, keys, value, message",
    [
        (
            "params.yaml",
            "model",
            "nosuch",
            r"model/nosuch.yaml does not exist; model can be: any, any_aum, ast, .*flexi",
        ),
        ("params.yaml", "data", "nosuch", r"configs/data/nosuch.yaml does not exist; data can be: .*fsdd"),
        ("params.yaml", "modle", "ast", "unknown key params.yaml.modle"),
        ("params.yaml", "train.num_wrokers", 2, "unknown key params.yaml.train.num_wrokers"),
        ("params.yaml", "train.num_workers", "two", "params.yaml.train.num_workers: .*positive integer.*got 'two'"),
        ("params.yaml", "train.num_workers", 0, "params.yaml.train.num_workers: .*positive integer.*got 0"),
        (
            "params.yaml",
            "train.num_workers",
            [4, 2],
            r"params.yaml.train.num_workers: .*\[fewest, most\].*got \[4, 2\]",
        ),
        ("params.yaml", "train.accumulate", 0, "params.yaml.train.accumulate: .*greater than 0.*got 0"),
        ("params.yaml", "seed", "delete", "missing key params.yaml.seed"),
        ("params.yaml", "evaluate", "nosuch", r"evaluate/nosuch.yaml does not exist; evaluate can be: .*matrix"),
        ("configs/evaluate/matrix.yaml", "patch_sizes", [16, -1], r"evaluate/matrix.yaml.patch_sizes.1.0: .*got -1"),
        ("configs/evaluate/matrix.yaml", "cells", "all", "matrix.yaml.cells: .*'axes', 'matrix' or 'product'"),
        ("configs/evaluate/matrix.yaml", "split", "tset", "matrix.yaml.split: .*'valid' or 'test'.*got 'tset'"),
        ("params.yaml", "download.sha256", "abc", "params.yaml.download.sha256"),
        ("configs/model/flexi.yaml", "pretrain.lr", 1, "unknown key configs/model/flexi.yaml.pretrain.lr"),
        ("configs/model/flexi.yaml", "pretrain.phases.0.method", "none", "method 'none' goes with compression 1"),
        ("configs/model/flexi.yaml", "finetune.schedule", "steps", "steps: .start, every, factor. go together"),
        ("configs/model/flexi.yaml", "finetune.patch_probabilities", [1.0], "one value per entry of patch_sizes"),
        ("configs/model/elastic.yaml", "finetune.batch_size", 32, "either batch_size .* or packing"),
        ("configs/model/elastic.yaml", "finetune.packing", "delete", "either batch_size .* or packing"),
        ("configs/model/elastic.yaml", "finetune.packing.hops_ms", [], "finetune.packing.hops_ms: .*at least 1"),
        ("configs/data/synthetic.yaml", "source.corpus", "nosuch", "configs/data/synthetic.yaml.source"),
    ],
)
def test_a_mistake_is_one_line_with_the_path_of_the_key(project, file, keys, value, message):
    change(project / file, keys, value)
    if file.startswith("configs/model"):
        change(project / "params.yaml", "model", Path(file).stem)
    with pytest.raises(AudiolibError, match=message) as caught:
        check(project)
    assert "\n" not in str(caught.value)


def test_a_stage_refuses_an_unknown_top_level_key_too(project):
    change(project / "params.yaml", "trian", {})
    with pytest.raises(AudiolibError, match=r"unknown key params.yaml.trian; the sections are: model, data"):
        read_section(project, "seed", int)


@pytest.mark.parametrize("text", ["a: [1", "- 1", "\x00", "a: !!python/object/apply:os.system ['true']"])
def test_a_file_that_is_no_yaml_mapping_is_one_line(project, text):
    (project / "params.yaml").write_text(text)
    with pytest.raises(AudiolibError, match=r"params\.yaml") as caught:
        check(project)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_model_is_trained_where_it_is_at_home(project, stage):
    """There it is judged, listens and is registered."""
    change(project / "configs/model/ast.yaml", f"{stage}.patch_sizes", [8, 32])
    change(project / "params.yaml", "model", "ast")
    with pytest.raises(AudiolibError, match=rf"{stage}\.patch_sizes must hold architecture\.patch, \[16, 16\]"):
        check(project)
