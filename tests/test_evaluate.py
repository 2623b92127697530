"""The sweep: every cell once, its numbers those of a plain loop; the files made from it; MLflow; the report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from audiolib.batches import pack
from audiolib.config.evaluation import EvaluatePreset
from audiolib.dataset import read_split
from audiolib.errors import AudiolibError
from audiolib.evaluate import sweep
from audiolib.grid import Cell, Grid, Trained, grid_of, run_columns, trained_name
from audiolib.pretrained import load, load_card, save_pretrained
from audiolib.results import (
    Home,
    at_home,
    at_own_hop,
    home,
    main_metric,
    matrix,
    read_rows,
    summary,
    table,
    write_outcome,
)
from audiolib.train import fit
from tests.conftest import ROOT
from tests.recipes import job, phase, recipe


def preset(**changes) -> EvaluatePreset:
    values = {"split": "test", "cells": "matrix", "patch_sizes": [16, 24, [16, 8]], "seconds": None}
    return EvaluatePreset(**{**values, "hops_ms": [10, 14, 20], "batch_frames": 640, **changes})


SECTION = preset()


@pytest.fixture(scope="module")
def trained(small_features, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    coarse = recipe(phases=[phase(2, "avg_pool")], patch_sizes=[16], valid_patch_sizes=[16])
    fit(job(small_features, folder, recipe=coarse, out=folder / "pretrain"))
    fit(job(small_features, folder, stage="finetune", start=folder / "pretrain", out=folder / "finetune"))
    return folder


def settings() -> dict:
    found = {"params": yaml.safe_load((ROOT / "params.yaml").read_text())}
    found["model"] = yaml.safe_load((ROOT / "configs/model/flexi.yaml").read_text())
    found["model"]["pretrain"]["phases"] = [{"compression": 2, "method": "avg_pool", "epochs": 1, "lr": 1e-3}]
    found["data"] = {"source": {"corpus": "synthetic"}, "seconds": 0.64, "eval_seconds": [0.32, 0.64]}
    found["evaluate"] = yaml.safe_load((ROOT / "configs/evaluate/matrix.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def outcome(trained, small_features):
    return measured(trained, ("pretrain", "finetune"), SECTION, [0.32, 0.64], small_features)


def measured(trained: Path, stages: tuple[str, ...], section: EvaluatePreset, seconds: list[float], features: Path):
    """What the evaluate stage does, on folders of our own."""
    entries = [Trained(trained / stage, stage, trained_name(settings()["model"], stage)) for stage in stages]
    return sweep(entries, features, grid_of(section, seconds, settings()), run_columns(settings()))


def test_every_cell_is_there_once(outcome):
    rows = table(outcome.rows)
    cells = rows.select("stage", "patch_f", "patch_t", "seconds", "hop_ms", "metric").rows()
    # A matrix for each model, and two foreign hops: 10 and 14 ms for one, 14 and 20 for the other.
    assert len(cells) == len(set(cells)) == (2 * 3 * 2 + 4) * 3
    own = at_own_hop(rows, home(settings()))
    assert set(own.filter(pl.col("stage") == "pretrain")["hop_ms"]) == {20.0}
    assert set(at_home(rows, "hop", home(settings()))["hop_ms"]) == {10.0, 14.0, 20.0}
    assert rows["model"].unique().sort().to_list() == ["ast-p16", "flexi"]
    assert rows["ms"].min() > 0 and rows["n"].unique().to_list() == [24]


def test_a_cell_is_what_a_plain_loop_finds(outcome, trained, small_features):
    clips, model = read_split(small_features, "test"), load(trained / "finetune")
    hits = 0
    for mel, target in zip(clips.held.mels, clips.target, strict=True):
        frames = torch.zeros(32, 128)
        frames[: min(32, len(mel))] = torch.from_numpy(clips.normalised(mel[:32].astype(np.float32)))
        hits += int(model(pack([frames]), (16, 8)).argmax()) == int(target.argmax())
    rows = table(outcome.rows).filter(
        (pl.col("stage") == "finetune")
        & (pl.col("seconds") == 0.32)
        & (pl.col("patch_t") == 8)
        & (pl.col("metric") == "accuracy")
    )
    assert rows["value"].to_list() == [pytest.approx(hits / 24)]
    assert rows["ci_low"][0] <= hits / 24 <= rows["ci_high"][0]


def test_what_was_trained_by_varlen_is_measured_in_float32_all_the_same(trained, small_features, tmp_path):
    entries, grid = [Trained(trained / "finetune", "finetune", "flexi")], Grid("test", [Cell((16, 16), 0.64)], 0.64)
    kernels = {"attention": "varlen", "scan": "auto"}
    assert sweep(entries, small_features, grid, run_columns(settings()), scratch=tmp_path, kernels=kernels).rows


def test_a_sweep_does_not_go_on_with_what_another_kernel_found(trained, small_features, tmp_path):
    entries, grid = [Trained(trained / "finetune", "finetune", "flexi")], Grid("test", [Cell((16, 16), 0.64)], 0.64)
    asked = [{"attention": attention, "scan": "auto"} for attention in ("grouped", "naive", "naive")]
    found = [sweep(entries, small_features, grid, {}, scratch=tmp_path, kernels=kernels).pieces for kernels in asked]
    assert found[0] != found[1] == found[2]


def test_predictions_are_those_behind_the_accuracy_at_home(outcome):
    said = pl.DataFrame(outcome.predictions)
    final = said.filter(pl.col("stage") == "finetune")
    share = (final["actual"] == final["predicted"]).mean()
    assert share == pytest.approx(summary(table(outcome.rows), home(settings()))["finetune"]["accuracy"])


def test_the_home_cell_is_measured_even_if_nobody_asks(trained, small_features, tmp_path):
    section = preset(patch_sizes=[(8, 16), (24, 16), (24, 16)], hops_ms=[10])
    found = measured(trained, ("finetune",), section, [0.32], small_features)
    rows = write_outcome(tmp_path, found, settings(), [trained / "finetune/history.csv"])
    assert rows.select("patch_f", "patch_t", "seconds").n_unique() == len(rows) / 3 == 3 * 2
    assert json.loads((tmp_path / "metrics.json").read_text())["finetune"]["accuracy"] is not None
    assert len(pl.read_csv(tmp_path / "by_patch.csv")) == 3 and len(found.predictions) == 24


def test_the_confusion_of_dvc_has_each_clip_once_as_the_final_model_hears_it(outcome, trained, tmp_path):
    write_outcome(tmp_path, outcome, settings(), [trained / "finetune/history.csv"])
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    (plot,) = [entry["confusion"] for entry in plots if "confusion" in entry]
    ((path, actual),) = plot["y"].items()
    drawn = pl.read_csv(tmp_path / Path(path).name)
    final = pl.DataFrame(outcome.predictions).filter(pl.col("stage") == "finetune")
    assert len(drawn) == drawn["id"].n_unique() == 24 < len(outcome.predictions)
    assert drawn.select("id", actual, plot["x"]).equals(final.select("id", "actual", "predicted"))


@pytest.fixture(scope="module")
def written(outcome, trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_outcome(folder, outcome, settings(), [trained / stage / "history.csv" for stage in ("pretrain", "finetune")])
    return folder


def test_files_of_an_evaluation_agree(written):
    rows = read_rows(written)
    assert len(pl.read_csv(written / "rows.csv")) == len(rows)
    metrics = json.loads((written / "metrics.json").read_text())
    by_patch = pl.read_csv(written / "by_patch.csv")
    final = (pl.col("stage") == "finetune") & (pl.col("metric") == main_metric(rows))
    names, lengths, values = matrix(at_own_hop(rows, home(settings())).filter(final))
    assert names == ["p16x8", "p16", "p24"] and lengths == [0.32, 0.64]
    assert metrics["finetune"]["by_patch"]["p24"] == values[2][1]
    assert by_patch.filter(pl.col("patch_t") == 24)["finetune"][0] == pytest.approx(values[2][1], abs=1e-6)
    assert home(settings()) == Home(
        {"pretrain": (16, 16), "finetune": (16, 16)}, 0.64, {"pretrain": 20.0, "finetune": 10.0}
    )


def test_a_row_with_an_unknown_column_is_a_mistake():
    with pytest.raises(ValueError, match="not a result column: colour"):
        table([{"colour": 1}])


def test_clips_are_normalised_as_the_model_knows_them(trained, small_features, tmp_path):
    """The same model with other constants, its kernel and bias changed so that they cancel out; no clip is padded."""
    folder, entry = tmp_path / "moved", trained / "finetune"
    model, card = load(entry), load_card(entry)
    mean, std = card.frontend["mean"], card.frontend["std"]
    with torch.no_grad():  # x' = 2 x + 1 when the deviation is halved and the mean lies a deviation lower.
        model.embed.bias -= model.embed.weight.sum((1, 2)) / 2
        model.embed.weight /= 2
    moved = replace(card, frontend={**card.frontend, "mean": mean - std, "std": std / 2})
    save_pretrained(model, moved, folder)
    grid = Grid("test", [Cell((16, 16), 0.32)], 0.32)
    both = [sweep([Trained(f, "finetune", "m")], small_features, grid, {}, scratch=tmp_path) for f in (entry, folder)]
    first, second = ([said["p_actual"] for said in found.predictions] for found in both)
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_model_of_other_classes_or_another_front_end_is_not_asked(trained, small_features, tmp_path):
    model, card = load(trained / "finetune"), load_card(trained / "finetune")
    grid = Grid("test", [Cell((16, 16), 0.64)], 0.64)
    wrong = {
        "other classes": replace(card, classes=card.classes[::-1]),
        "log-mel of": replace(card, frontend={**card.frontend, "hop_ms": 5.0}),
    }
    for words, other in wrong.items():
        save_pretrained(model, other, tmp_path / words)
        with pytest.raises(AudiolibError, match=words):
            sweep([Trained(tmp_path / words, "finetune", "m")], small_features, grid, {}, scratch=tmp_path)


def test_an_interrupted_sweep_goes_on_where_it_was(trained, small_features, tmp_path, monkeypatch):
    entry = Trained(trained / "finetune", "finetune", "flexi")
    grid = Grid("test", [Cell((16, 16), 0.64), Cell((24, 24), 0.32), Cell((16, 16), 0.64, 14)], 0.64)
    monkeypatch.setattr("audiolib.sweep_pass.PIECE_FRAMES", 800)  # Several pieces of the 24 clips.
    whole = sweep([entry], small_features, grid, {}, scratch=tmp_path / "a")
    calls = []

    def dies(task, *rest):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(task.cell)
        return real(task, *rest)

    from audiolib.sweep_pass import _timed_logits as real

    monkeypatch.setattr("audiolib.sweep_pass._timed_logits", dies)
    stop = 4
    with pytest.raises(KeyboardInterrupt):
        sweep([entry], small_features, grid, {}, scratch=tmp_path / "b")
    stop = None
    again = sweep([entry], small_features, grid, {}, scratch=tmp_path / "b")
    assert len(calls) % 3 == 0 and len(calls) >= 6  # Each piece of each cell once.
    assert again.pieces.exists(), "until its outcome is written down"
    again.written()
    assert list((tmp_path / "b/sweeps").iterdir()) == []
    without_time = [key for key in table(whole.rows).columns if key != "ms"]
    assert table(again.rows).select(without_time).equals(table(whole.rows).select(without_time))
    assert pl.concat(again.scores).equals(pl.concat(whole.scores))


def test_scores_of_clips_are_those_behind_each_cell(outcome):
    rows, scores = table(outcome.rows), pl.concat(outcome.scores)
    cell = ["stage", "patch_f", "patch_t", "seconds", "hop_ms"]
    means = scores.group_by(cell).agg(pl.col("score").mean(), pl.col("id").n_unique())
    joined = rows.filter(pl.col("metric") == "accuracy").join(means, on=cell)
    assert len(joined) == len(means) and joined["id"].unique().to_list() == [24]
    assert np.allclose(joined["score"], joined["value"])


def test_tokens_grow_as_a_patch_shrinks(outcome):
    rows = table(outcome.rows).filter((pl.col("stage") == "finetune") & (pl.col("metric") == "map"))
    rows = rows.filter((pl.col("seconds") == 0.64) & (pl.col("hop_ms") == 10))
    tokens = dict(rows.select("patch_t", "tokens").rows())
    assert tokens == {8: 64, 16: 32, 24: 18} and rows["mib"].min() > 0
