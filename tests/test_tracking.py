"""MLflow: one run a pass, each point told once, record and model kept; and a database that many open at once."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import mlflow
import polars as pl
import pytest
import yaml
from mlflow import MlflowClient

from audiolib.errors import AudiolibError
from audiolib.inference import Listener, top, whole_files
from audiolib.registry import _newest_first, experiment_id, recorded, register, to_overlay, tracking_uri
from audiolib.results import home, read_rows, summary, table
from audiolib.tracking import Run, attach, log_files, log_outcome, log_record
from audiolib.ui import _view
from tests.conftest import ROOT
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


@dataclass(frozen=True)
class Told:
    """A pass that was logged, twice: where, as which run, and MLflow's client."""

    root: Path
    run: Run
    client: MlflowClient


@pytest.fixture
def told(written, trained, small_features, tmp_path, monkeypatch) -> Told:  # noqa: F811
    monkeypatch.delenv("DVC_ROOT", raising=False)
    root = project(tmp_path)
    run = attach(root)
    log_outcome(root, written, small_features, trained / "finetune")
    run.tag("record", "half told")  # A second time must add nothing.
    log_outcome(root, written, small_features, trained / "finetune")
    assert attach(root).run_id == run.run_id
    return Told(root, run, MlflowClient(tracking_uri(root)))


@pytest.mark.slow
def test_each_is_told_once(told, outcome, tmp_path):  # noqa: F811
    rows, run, client = table(outcome.rows), told.run, told.client
    found = client.get_run(run.run_id).data
    home_rows = summary(rows, home(settings()))
    assert found.metrics["accuracy/p24"] == pytest.approx(home_rows["finetune"]["by_patch"]["p24"])
    assert found.metrics["pretrain_accuracy/p24"] == pytest.approx(home_rows["pretrain"]["by_patch"]["p24"])
    assert found.tags["model"] == "flexi" and found.params["params.seed"] == "1"
    assert sorted(run.steps("curve/accuracy_vs_patch")) == [8, 16, 24]
    for name in found.metrics:
        points = client.get_metric_history(run.run_id, name)
        assert len({(point.step, point.value) for point in points}) == len(points), name
    kept_table = json.loads(Path(client.download_artifacts(run.run_id, "matrix/rows.json", str(tmp_path))).read_text())
    assert kept_table["columns"] == rows.columns and len(kept_table["data"]) == len(rows)
    assert [f.path for f in client.list_artifacts(run.run_id, "matrix")] == ["matrix/rows.json"]
    for stage in ("pretrain", "finetune"):
        nested = client.get_run(run.stage(stage))
        assert nested.data.tags["mlflow.parentRunId"] == run.run_id and nested.data.metrics["compute/gmac_cum"] > 0
        assert run.steps("valid_score", nested.info.run_id) == run.steps("compute/seconds", nested.info.run_id) == [0]
    (entry,) = client.get_run(run.run_id).inputs.dataset_inputs
    assert entry.dataset.name == "synthetic" and entry.tags[0].value == "test"


@pytest.mark.slow
def test_the_newest_value_is_the_one_told_last_whatever_the_clock(told, outcome, monkeypatch):  # noqa: F811
    def now() -> float:
        return told.client.get_run(told.run.run_id).data.metrics["accuracy/p24"]

    rows, first, real = table(outcome.rows), now(), time.time
    told.run.matrix(rows.with_columns(value=pl.col("value") / 2), home(settings()))
    assert now() == pytest.approx(first / 2)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() - 86400)
        told.run.matrix(rows, home(settings()))  # The first ones, found again.
    assert now() == first


LOAD = """
import importlib.util, json, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]  # As if we were not installed.
assert importlib.util.find_spec("audiolib") is None
import mlflow
loaded = mlflow.pyfunc.load_model("models:/audiolib-synthetic/1")
whole, two = loaded.predict(sys.argv[1:]), loaded.predict(sys.argv[1:], params={"top_k": 2})
print(json.dumps([sys.modules["audiolib"].__file__, whole.to_dict("records"), len(two)]))
"""


@pytest.mark.slow
def test_the_registered_model_brings_its_code_and_says_what_a_listener_says(told, trained, small_download, tmp_path):  # noqa: F811
    paths = sorted(str(path) for path in small_download.rglob("*.wav"))[:3]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": told.run.uri}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", LOAD, *paths]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code, said, two_each = json.loads(done.stdout.splitlines()[-1])
    assert Path(code).parts[-3:-1] == ("code", "audiolib") and not Path(code).is_relative_to(ROOT)
    listener = Listener(trained / "finetune")
    direct = [top(h.values, listener.classes, 1)[0][0] for h in whole_files(listener.listen(paths))]
    assert [row["class"] for row in said if row["rank"] == 1] == direct and len(said) == 36 and two_each == 6


@pytest.mark.slow
def test_the_registered_model_wants_what_the_library_needs_as_it_is_installed(told, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", told.run.uri)
    (version,) = told.client.search_model_versions("name='audiolib-synthetic'")
    wanted = Path(mlflow.pyfunc.get_model_dependencies(f"models:/audiolib-synthetic/{version.version}")).read_text()
    pinned = dict(line.split("==") for line in wanted.split() if line.partition("==")[0] != "mlflow")
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(pinned) == {re.match("[a-z]+", entry)[0] for entry in needed}
    for name, number in pinned.items():
        assert re.fullmatch(r"[\d.]+", number) and importlib.metadata.version(name).startswith(number)


@pytest.mark.slow
def test_the_browser_opens_on_a_curve_of_all_models(told):
    uri = told.run.uri
    curve, overlaid = to_overlay(uri, experiment_id(uri))
    assert (curve, overlaid) == ("curve/accuracy_vs_patch", [told.run.run_id])
    page = urllib.parse.unquote(_view(uri, "audiolib"))
    assert page.startswith(f'metric?runs=["{told.run.run_id}"]&metric="{curve}"') and "&x_axis=step&" in page
    assert _view(uri, "nosuch") == ""
    one_a_page = Pages(told.client)
    assert len(list(_newest_first(one_a_page, experiment_id(uri)))) == one_a_page.asked == 3  # Two are its stages'.


@pytest.mark.slow
def test_records_are_read_back_and_replaced_by_newer_results(told, outcome, written, trained, small_features, tmp_path):  # noqa: F811
    rows, root, run_id = table(outcome.rows), told.root, told.run.run_id
    kept = {Path(f.path).name for f in told.client.list_artifacts(run_id, "record")}
    assert kept == {"rows.parquet", "scores.parquet", "run.json", "history.csv"}
    ((name, folder),) = recorded(root, [], None)
    assert name.startswith("flexi synthetic seed 1") and read_rows(folder).equals(rows)
    assert recorded(root, [run_id], "synthetic") == [(name, folder)]
    with pytest.raises(AudiolibError, match="no recorded run is called nosuch"):
        recorded(root, ["nosuch"], None)
    changed = rows.with_columns(value=pl.col("value") / 2)
    shutil.copytree(written, tmp_path / "again")
    changed.write_parquet(tmp_path / "again/rows.parquet")
    log_outcome(root, tmp_path / "again", small_features, trained / "finetune")  # The same pass, with other results.
    ((_, folder),) = recorded(root, [], None)
    assert read_rows(folder).equals(changed)


@pytest.mark.slow
def test_the_report_tells_what_an_evaluation_from_dvcs_cache_has_found(written, small_features, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.delenv("DVC_ROOT", raising=False)
    root = project(tmp_path)
    for _ in range(2):
        log_record(root, written, small_features)
        log_files(root, [written / "run.json"], "report")
    ((_, folder),) = recorded(root, [], None)
    assert read_rows(folder).equals(read_rows(written))
    assert [
        row.data.metrics["valid_score"] >= 0
        for row in MlflowClient(tracking_uri(root)).search_runs([experiment_id(tracking_uri(root))], "tags.stage != ''")
    ] == [True, True]


@pytest.mark.slow
def test_runs_lie_in_the_experiment_that_is_asked_for(trained, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of a team")
    run = attach(project(tmp_path))
    register(run.uri, run.run_id, trained / "finetune", "a-model")
    client = MlflowClient(run.uri)
    found = client.get_run(run.run_id)
    assert client.get_experiment(found.info.experiment_id).name == "of a team"
    assert found.info.experiment_id == experiment_id(run.uri)
    assert client.search_model_versions("name='a-model'")[0].run_id == run.run_id


class Pages:
    """An MLflow that gives one run a page."""

    def __init__(self, client):
        self.client, self.asked = client, 0

    def search_runs(self, *args, **options):
        self.asked += 1
        return self.client.search_runs(*args, max_results=1, **options)


DEAD = "http://127.0.0.1:9"


@pytest.fixture
def in_haste(monkeypatch):
    """The environment that `if_it_answers` sets, which is set back after the test."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    monkeypatch.setattr("audiolib.registry._silent", set())
    monkeypatch.delenv("DVC_ROOT", raising=False)


@pytest.mark.slow
@pytest.mark.usefixtures("in_haste")
def test_results_are_no_reason_to_stop(written, trained, small_features, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    root = project(tmp_path)
    log_outcome(root, written, small_features, trained / "finetune")
    log_files(root, [written / "run.json"], "report")
    assert capsys.readouterr().err.count("going on without it") == 1
