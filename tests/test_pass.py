"""A pass of the pipeline is one run of MLflow: whatever opens it, whoever ends it, and without a server, too."""

import multiprocessing
import socket
import subprocess
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from audiolib.errors import AudiolibError
from audiolib.registry import experiment_id, is_active, recorded, tracking_uri
from audiolib.tracking import Run, attach, log_files, telling_failure
from audiolib.ui import serve
from tests.conftest import ROOT
from tests.test_tracking import DEAD, in_haste, project  # noqa: F401


def test_how_the_page_looks_makes_no_other_pass_and_no_empty_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    root = project(tmp_path)
    run, client = attach(root), MlflowClient(tracking_uri(root))

    def changed(section: str, value) -> str:
        params = yaml.safe_load((root / "params.yaml").read_text())
        (root / "params.yaml").write_text(yaml.safe_dump({**params, section: value}))
        return attach(root).run_id

    assert changed("report", {"classes_shown": 3, "mistakes_shown": 3}) == run.run_id
    log_files(root, [root / "params.yaml"], "report")
    assert [found.info.run_id for found in client.search_runs([experiment_id(run.uri)])] == [run.run_id]
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert changed("seed", 2) != run.run_id


def test_a_run_says_who_made_it_and_from_which_commit(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    run = attach(project(tmp_path))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    client = MlflowClient(run.uri)
    for number in (run.run_id, run.stage("finetune")):
        tags = client.get_run(number).data.tags
        assert (tags["mlflow.source.name"], tags["mlflow.source.git.commit"]) == ("dvc repro", commit)
        assert tags["mlflow.user"]


@pytest.mark.parametrize("error, status", [(AudiolibError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_pass_whose_stage_fails_has_failed_until_it_goes_on(tmp_path, monkeypatch, error, status):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    root = project(tmp_path)

    def ends(*, before: bool) -> str:
        with pytest.raises(type(error)), telling_failure(root):
            if not before:
                attach(root)
            raise error
        return "" if before else MlflowClient(tracking_uri(root)).get_run(attach_id(root)).info.status

    ends(before=True)
    assert not (root / "mlflow.db").exists(), "nothing is to be told before there is a run"
    assert ends(before=False) == status
    run = attach(root)
    assert MlflowClient(run.uri).get_run(run.run_id).info.status == "RUNNING"


def attach_id(root: Path) -> str:
    """Of the only run."""
    uri = tracking_uri(root)
    return MlflowClient(uri).search_runs([experiment_id(uri)])[0].info.run_id


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


def epochs(count: int) -> list[dict]:
    numbers = {"train_loss": 1.0, "valid_score": 0.5, "lr": 1e-3, "efficiency": 1.0, "seconds": 2.0}
    return [{"stage": "finetune", "epoch": n, "gmac_cum": 100.0 * (n + 1), **numbers} for n in range(count)]


@pytest.mark.usefixtures("in_haste")
def test_a_training_goes_on_without_mlflow_and_what_it_missed_is_told_later(tmp_path, capsys):
    run, rows = attach(project(tmp_path)), epochs(3)
    run.epoch(rows[0])
    cut_off = Run(DEAD, run.run_id)
    capsys.readouterr()
    for row in rows[1:]:
        cut_off.epoch(row)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith(f"MLflow at {DEAD} does not take what it is told; going on without it")
    assert run.steps("valid_score", run.stage("finetune")) == [0]
    run.history(rows)
    assert run.steps("valid_score", run.stage("finetune")) == [0, 1, 2]


@pytest.mark.usefixtures("in_haste")
def test_only_a_run_that_is_gone_is_made_again(tmp_path):
    root = project(tmp_path)
    run, client = attach(root), MlflowClient(tracking_uri(root))
    assert is_active(client, run.run_id) and not is_active(client, "0" * 32)
    with pytest.raises(MlflowException):
        is_active(MlflowClient(DEAD), run.run_id)
    client.delete_run(run.run_id)
    assert not is_active(client, run.run_id) and attach(root).run_id != run.run_id


def test_a_port_that_is_taken_is_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(AudiolibError, match=f"port {port} is taken"):
            serve(project(tmp_path), port)
