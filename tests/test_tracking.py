"""MLflow: one run a pass, each point told once, record and model kept; and a database that many open at once."""

import json
import multiprocessing
import shutil
import socket
import time
import urllib.parse
from pathlib import Path

import polars as pl
import pytest
import yaml

from audiolib.errors import AudiolibError
from audiolib.inference import Listener, top, whole_files
from audiolib.registry import _newest_first, experiment_id, recorded, to_overlay, tracking_uri
from audiolib.results import home, read_rows, summary, table
from audiolib.tracking import attach, log_outcome
from audiolib.ui import _view, serve
from tests.test_evaluate import outcome, settings, trained, written  # noqa: F401


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
def test_each_is_told_once(outcome, written, trained, small_features, small_download, tmp_path, monkeypatch):  # noqa: F811
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
    curve, overlaid = to_overlay(run.uri, experiment_id(run.uri))
    assert (curve, overlaid) == ("curve/accuracy_vs_patch", [run.run_id])
    page = urllib.parse.unquote(_view(run.uri, "audiolib"))
    assert page.startswith(f'metric?runs=["{run.run_id}"]&metric="{curve}"') and "&x_axis=step&" in page
    assert _view(run.uri, "nosuch") == ""
    one_a_page = Pages(client)
    assert len(list(_newest_first(one_a_page, experiment_id(run.uri)))) == one_a_page.asked == 3  # Two are its stages'.
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


class Pages:
    """An MLflow that gives one run a page."""

    def __init__(self, client):
        self.client, self.asked = client, 0

    def search_runs(self, *args, **options):
        self.asked += 1
        return self.client.search_runs(*args, max_results=1, **options)


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
    root, silent = project(tmp_path), r"MLflow at http://127.0.0.1:9 cannot be used"
    for ask in (lambda: attach(root), lambda: recorded(root, [], None), lambda: serve(root, 5077)):
        with pytest.raises(AudiolibError, match=silent):
            ask()


def test_a_port_that_is_taken_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(AudiolibError, match=f"port {port} is taken"):
            serve(project(tmp_path), port)
