"""The sweep: every cell once, its numbers those of a plain loop; the files made from it; MLflow; the report."""

import json
import multiprocessing
import shutil
import time
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
from audiolib.grid import Cell, Grid, Trained, grid_of, run_columns, trained_name, view_of
from audiolib.inference import Listener, top, whole_files
from audiolib.pretrained import Card, load, load_card, save_pretrained
from audiolib.registry import recorded, tracking_uri
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
from audiolib.tracking import attach, log_outcome
from audiolib.train import fit
from audiolib.views import View
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


def test_names_say_what_was_trained():
    preset = settings()["model"]
    assert trained_name(preset, "pretrain") == "ast-p16" and trained_name(preset, "finetune") == "flexi"


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
    assert home(settings()) == Home((16, 16), 0.64, {"pretrain": 20.0, "finetune": 10.0})


def test_a_row_with_an_unknown_column_is_a_mistake():
    with pytest.raises(ValueError, match="not a result column: colour"):
        table([{"colour": 1}])


def project(folder: Path) -> Path:
    """A project folder whose parameters are those of `settings`."""
    found = settings()
    for name, content in (
        ("params", found["params"]),
        ("configs/model/flexi", found["model"]),
        ("configs/data/synthetic", found["data"]),
        ("configs/evaluate/matrix", found["evaluate"]),
    ):
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.slow
def test_mlflow_gets_cells_curves_table_and_each_epoch_once(
    outcome, written, trained, small_features, small_download, tmp_path, monkeypatch
):
    import mlflow
    import pandas as pd
    from mlflow import MlflowClient

    monkeypatch.delenv("DVC_ROOT", raising=False)
    root = project(tmp_path)
    rows = table(outcome.rows)
    run = attach(root)
    for _ in range(2):  # A second time must add nothing.
        log_outcome(root, written, small_features, trained / "finetune")
    assert attach(root).run_id == run.run_id
    client = MlflowClient(tracking_uri(root))
    found = client.get_run(run.run_id).data
    home_rows = summary(rows, home(settings()))
    assert found.metrics["accuracy/p24"] == pytest.approx(home_rows["finetune"]["by_patch"]["p24"])
    assert found.metrics["pretrain_accuracy/p24"] == pytest.approx(home_rows["pretrain"]["by_patch"]["p24"])
    assert sorted(run.steps("curve/accuracy_vs_patch")) == [8, 16, 24]
    for name in found.metrics:
        points = client.get_metric_history(run.run_id, name)
        assert len({(point.step, point.value) for point in points}) == len(points), name
    table_file = client.download_artifacts(run.run_id, "matrix/rows.json", str(tmp_path))
    kept_table = json.loads(Path(table_file).read_text())
    assert kept_table["columns"] == rows.columns and len(kept_table["data"]) == len(rows)
    changed = rows.with_columns(value=pl.col("value") / 2)
    run.matrix(changed, home(settings()))  # Other results of the same pass are told, too.
    assert client.get_run(run.run_id).data.metrics["accuracy/p24"] == pytest.approx(found.metrics["accuracy/p24"] / 2)
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() - 86400)
        run.matrix(rows, home(settings()))  # And the first ones, found again, by a clock that was set back.
    assert client.get_run(run.run_id).data.metrics["accuracy/p24"] == found.metrics["accuracy/p24"]
    for stage in ("pretrain", "finetune"):
        nested = client.get_run(run.stage(stage))
        assert nested.data.tags["mlflow.parentRunId"] == run.run_id and nested.data.metrics["compute/gmac_cum"] > 0
        assert run.steps("valid_score", nested.info.run_id) == run.steps("compute/seconds", nested.info.run_id) == [0]
    (entry,) = client.get_run(run.run_id).inputs.dataset_inputs
    assert entry.dataset.name == "synthetic" and entry.tags[0].value == "test"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", run.uri)
    (version,) = client.search_model_versions("name='audiolib-synthetic'")
    loaded = mlflow.pyfunc.load_model(f"models:/audiolib-synthetic/{version.version}")
    paths = sorted(str(path) for path in small_download.rglob("*.wav"))[:3]
    said = loaded.predict(pd.DataFrame({"path": paths}))
    assert len(loaded.predict(paths, params={"top_k": 2})) == 6
    listener = Listener(trained / "finetune")
    direct = [top(h.values, listener.classes, 1)[0][0] for h in whole_files(listener.listen(paths))]
    assert said[said["rank"] == 1]["class"].tolist() == direct and len(said) == 36
    assert [f.path for f in client.list_artifacts(run.run_id, "matrix")] == ["matrix/rows.json"]
    kept = {Path(f.path).name for f in client.list_artifacts(run.run_id, "record")}
    assert kept == {"rows.parquet", "scores.parquet", "run.json", "history.csv"}
    ((name, folder),) = recorded(root, [], None)
    assert name.startswith("flexi synthetic seed 1") and read_rows(folder).equals(rows)
    assert recorded(root, [run.run_id], "synthetic") == [(name, folder)]
    with pytest.raises(AudiolibError, match="no recorded run is called nosuch"):
        recorded(root, ["nosuch"], None)
    shutil.copytree(written, tmp_path / "again")
    changed.write_parquet(tmp_path / "again/rows.parquet")
    log_outcome(root, tmp_path / "again", small_features, trained / "finetune")  # The same pass, with other results.
    ((_, folder),) = recorded(root, [], None)
    assert read_rows(folder).equals(changed)
    assert found.tags["model"] == "flexi" and found.params["params.seed"] == "1"


def open_fresh(root: Path) -> str:
    return attach(root).run_id


@pytest.mark.slow
def test_processes_that_open_a_fresh_database_at_once_share_one_run(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    root = project(tmp_path)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert len(set(pool.map(open_fresh, [root] * 3))) == 1


def test_a_server_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(AudiolibError, match=r"MLflow at http://127.0.0.1:9 cannot be used"):
        attach(project(tmp_path))


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
    monkeypatch.setattr("audiolib.evaluate.PIECE_FRAMES", 800)  # Several pieces of the 24 clips.
    whole = sweep([entry], small_features, grid, {}, scratch=tmp_path / "a")
    calls = []

    def dies(task, *rest):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(task.cell)
        return real(task, *rest)

    from audiolib.evaluate import _timed_logits as real

    monkeypatch.setattr("audiolib.evaluate._timed_logits", dies)
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
