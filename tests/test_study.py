"""Studies: a run is done once, its rows are kept with their origin, and the tables say what the rows say."""

import os
import shutil
import statistics
import subprocess
import sys
import time
from itertools import product
from multiprocessing import get_context

import polars as pl
import pytest
import torch
import yaml
from mlflow import MlflowClient

from audiolib import evidence, study, study_home, study_jobs, study_record, study_tables
from audiolib.config.strict import validate
from audiolib.config.study import Study
from audiolib.errors import AudiolibError
from audiolib.registry import experiment_id, to_overlay
from audiolib.study_jobs import Plan, Task
from tests.conftest import ROOT

PHASE = {"compression": 1, "method": "none", "epochs": 1, "lr": 1.0e-3}
SMALL = {
    "question": "Does it run?",
    "corpora": ["synthetic"],
    "seeds": [1, 2],
    "patch_sizes": [16, 32],
    "seconds": [0.5],
    "hops_ms": [20],
    "matrix": True,
    "runs": [
        {"name": "fixed", "preset": "ast", "recipe": {"phases": [PHASE]}},
        {"name": "flexible", "preset": "flexi", "recipe": {"phases": [PHASE]}, "start": "fixed"},
    ],
}


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/study/*.yaml")), ids=lambda path: path.stem)
def test_every_study_names_what_exists_and_starts_from_earlier_runs(path, tmp_path):
    found = study.read_study(path.stem)
    assert len({run.name for run in found.runs}) == len(found.runs)
    for run in found.runs:
        for corpus in found.corpora:
            job = study.make_job(found, run, corpus, 1, tmp_path)
            assert job.recipe.phases and job.architecture["name"].startswith(run.preset)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own, with a corpus of ten clips a class."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    data = yaml.safe_load((tmp_path / "configs/data/synthetic.yaml").read_text())
    data["source"]["clips_per_class"] = 10
    (tmp_path / "configs/data/synthetic.yaml").write_text(yaml.safe_dump(data))
    (tmp_path / "configs/study/small.yaml").write_text(yaml.safe_dump(SMALL))
    monkeypatch.setattr(study, "ROOT", tmp_path)
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    monkeypatch.setattr(evidence, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(study_tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(study_record, "ROOT", tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


@pytest.mark.slow
def test_a_study_continues_and_its_tables_are_its_rows(project, capsys):
    study.run_study("small", seeds=[1], runs=["flexible"])
    first = evidence.read_evidence("small")
    assert set(first["model"]) == {"flexible"}, "what it starts from is trained, and not measured"
    study.run_study("small", seeds=[1])
    shutil.rmtree(project / ".scratch/study/models")
    study.run_study("small")
    rows = evidence.read_evidence("small")
    assert rows[: len(first)].equals(first), "a run that was done is not repeated"
    kept = (project / ".scratch/study/models").glob("*/config.json")
    assert len(list(kept)) == 2, "nor trained anew when its weights are gone and nothing needs them"
    small = {**SMALL, "runs": [run for run in SMALL["runs"] if run["name"] == "fixed"]}
    (project / "configs/study/small.yaml").write_text(yaml.safe_dump(small))
    study_tables.write("small")  # A run that was taken out of the study is in its rows yet.
    assert "flexible" not in (project / "results/small.md").read_text() and study_record.record("small") == 2
    (project / "configs/study/small.yaml").write_text(yaml.safe_dump(SMALL))
    with pytest.raises(AudiolibError, match="no run nosuch; the study has fixed, flexible"):
        study.run_study("small", runs=["nosuch"])
    measured = rows.filter(pl.col("metric") == "accuracy")
    cells = measured.filter(pl.col("hop_ms") == 10).select("model", "seed", "patch_t", "seconds").rows()
    every = product(("fixed", "flexible"), (1, 2), (16, 32), (0.5, 1.28))
    assert sorted(cells) == sorted(every)
    assert rows["commit"].null_count() == 0 and set(rows["command"]) == {"python -m audiolib.study small"}

    study_tables.write("small")
    page = (project / "results/small.md").read_text()
    own = measured.filter((pl.col("model") == "flexible") & (pl.col("hop_ms") == 20))
    values = [100 * value for value in own["value"]]
    assert f" | {statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} | " in page
    assert (project / "results/small-synthetic.png").read_bytes().startswith(b"\x89PNG")
    both = measured.filter((pl.col("model") == "flexible") & (pl.col("seconds") == 0.5))
    cells = both.filter(pl.col("patch_t") == 16)["value"].to_list()
    lines = page.split("| flexible | 0.5 s |")[1].splitlines()
    uri = f"sqlite:///{project}/mlflow.db"
    for _ in range(2):  # The second time adds nothing.
        assert study_record.record("small") == 4
    experiment = experiment_id(uri, study_record.EXPERIMENT)
    curve, overlaid = to_overlay(uri, experiment)
    found = {
        (run.data.tags["model"], run.data.tags["seed"]): run.data.metrics
        for run in MlflowClient(uri).search_runs([experiment])
    }
    assert curve == "curve/accuracy_vs_patch" and len(overlaid) == 2 and len(found) == 4
    kept = rows.filter((pl.col("model") == "flexible") & (pl.col("seed") == 2) & (pl.col("metric") == "train_gmac"))
    assert found["flexible", "2"]["compute/gmac_cum"] == pytest.approx(kept["value"][0])
    assert f"| p16 | {100 * statistics.mean(cells):.1f} ± {100 * statistics.stdev(cells):.1f} |" in lines[2]
    assert (project / "results/small.png").read_bytes().startswith(b"\x89PNG")

    capsys.readouterr()
    study.run_study("small", seeds=[2], runs=["fixed"])
    told = capsys.readouterr().err
    assert "its rows are kept" in told and "epoch 1/1" not in told
    study.run_study("small", seeds=[2], runs=["fixed"], again=True)
    assert "epoch 1/1" in capsys.readouterr().err, "trained anew, though its weights lay there"
    replaced = evidence.read_evidence("small")
    own = (pl.col("model") == "fixed") & (pl.col("seed") == 2)
    assert replaced.filter(~own).equals(rows.filter(~own)) and len(replaced) == len(rows)
    found = replaced.filter(own & (pl.col("metric") == "accuracy"))["value"]
    assert found.equals(rows.filter(own & (pl.col("metric") == "accuracy"))["value"]), "and they are the same again"
    assert replaced["run"].equals(rows["run"]), "at their old place, so that a diff shows what differs"


@pytest.mark.slow
def test_an_interrupted_repetition_continues(project, monkeypatch, capsys):
    def killed(*_):
        raise KeyboardInterrupt

    study.run_study("small", seeds=[1], runs=["fixed"])
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(study, "_measure", killed)
        study.run_study("small", seeds=[1], runs=["fixed"], again=True)
    assert len(evidence.read_evidence("small")) > 0, "the old rows stay until there are new ones"
    for trains in (False, True):  # The second time it is another repetition.
        capsys.readouterr()
        study.run_study("small", seeds=[1], runs=["fixed"], again=True)
        assert ("epoch 1/1" in capsys.readouterr().err) == trains


@pytest.mark.slow
def test_a_run_is_the_same_in_either_precision(project, monkeypatch, capsys):
    """Where it is repeated on other hardware its rows are replaced, not joined by more."""
    for has, again, told in ((False, False, "float32"), (True, False, "float32"), (True, True, "bfloat16")):
        monkeypatch.setattr("audiolib.precision.cpu_has_bf16", lambda has=has: has)
        study.run_study("small", seeds=[1], runs=["fixed"], again=again)
        rows = evidence.read_evidence("small")
        assert set(rows["precision"]) == {told} and rows["run"].n_unique() == 1
    assert "its rows are kept" in capsys.readouterr().err
    assert f"trained in {told}." in study_tables.render("small")


@pytest.mark.slow
def test_weights_of_other_clips_are_not_measured(project, capsys):
    for step in ("first", "again", "other clips"):
        (project / "results/small.csv").unlink(missing_ok=True)
        if step == "other clips":
            (clips,) = (project / ".scratch/study/models").glob("*.clips")
            clips.write_text("the digest of a corpus that was prepared before")
        study.run_study("small", seeds=[1], runs=["fixed"])
        trained = "study small: fixed on synthetic, seed 1" in capsys.readouterr().err
        assert trained is (step != "again"), step


@pytest.mark.slow
def test_runs_side_by_side_are_those_one_after_another(project, monkeypatch):
    """Without times; what fails is told at the end, and nothing else is lost."""
    shutil.copytree(ROOT / "audiolib", project / "audiolib", ignore=shutil.ignore_patterns("__pycache__"))
    broken = {"name": "broken/lr", "preset": "ast", "recipe": {"phases": [{**PHASE, "lr": 1.0e30}]}}
    runs = [broken, *SMALL["runs"]]
    (project / "configs/study/small.yaml").write_text(yaml.safe_dump({**SMALL, "seeds": [1], "runs": runs}))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    command = [sys.executable, "-m", "audiolib.study", "small", "--jobs", "2"]
    command += ["--run", "broken/lr", "--run", "flexible"]
    logs = project / ".scratch/study/logs/small"
    logs.mkdir(parents=True)
    (logs / "flexible on synthetic, seed 1.log").write_text("of an earlier attempt")
    told = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert told.returncode == 1 and "flexible on synthetic, seed 1: done; 3 of 3 runs" in told.stderr, told.stderr
    assert "error: 1 of 3 runs failed; the first: broken/lr on synthetic, seed 1: finetune: the loss" in told.stderr
    assert "phase 1/1 epoch 1/1" not in told.stderr, "what each says of itself is in a log of its own"
    assert len(list(logs.glob("*.log"))) == 3
    assert "earlier attempt" not in (logs / "flexible on synthetic, seed 1.log").read_text()
    assert (project / ".scratch/beside/sweeps").is_dir(), "a sweep beside others is not continued alone"
    with monkeypatch.context() as there:
        there.setattr(evidence, "RESULTS", project / "docs/results")
        rows = evidence.read_evidence("small")
    assert set(rows["model"]) == {"flexible"} and rows["ms"].null_count() == len(rows)
    assert "train_seconds" not in set(rows["metric"]) and "train_gmac" in set(rows["metric"])

    study.run_study("small", seeds=[1], runs=["fixed"])
    assert "train_seconds" not in set(evidence.read_evidence("small")["metric"]), (
        "these weights were made beside others"
    )
    for model in (project / ".scratch/study/models").glob("*/"):
        shutil.rmtree(model)
    shutil.rmtree(project / ".scratch/study/state")
    for beside in (project / ".scratch/study/models").glob("*.beside"):  # Checkpoints of other code are not continued.
        left = project / ".scratch/study/state" / beside.stem / "checkpoints/finetune/other/step-000000001-00000.json"
        left.parent.mkdir(parents=True)
        left.write_text("{}")
    study.run_study("small", seeds=[1], runs=["flexible"])
    alone = evidence.read_evidence("small").filter(pl.col("model") == "flexible")
    same = ["model", "patch_t", "seconds", "hop_ms", "metric", "value"]
    assert alone.filter(pl.col("metric") != "train_seconds").select(same).equals(rows.select(same))
    assert "train_seconds" in set(alone["metric"]) and alone["ms"].null_count() < len(alone)


def test_the_longest_chains_begin_first_and_what_starts_from_a_failed_run_fails():
    runs = [
        {"name": name, "preset": "ast", "start": start, "recipe": {"phases": [{**PHASE, "epochs": epochs}]}}
        for name, start, epochs in (("a", None, 5), ("b", None, 3), ("c", "b", 4), ("d", "c", 1), ("e", "b", 2))
    ]
    small = validate(Study, {**SMALL, "runs": runs}, "s")

    def tasks(names: str) -> list[Task]:
        return [Task(name, "synthetic", 1) for name in names]

    plan = Plan(small, tasks("ade"))
    assert [(task.run, task.measured) for task in plan.begin(1)] == [("b", False)], "8 epochs to come"
    assert plan.begin(9) == tasks("a") and plan.begin(9) == []
    plan.end(*tasks("b"), "")
    assert plan.begin(9) == [*tasks("c"), *tasks("e")]
    plan.end(*tasks("c"), "no luck")
    assert plan.failed == dict(
        zip(tasks("cd"), ("no luck", "it starts from c on synthetic, seed 1, which failed"), strict=True)
    )
    assert not plan.waiting and plan.running == {*tasks("a"), *tasks("e")}


def test_a_run_whose_process_is_killed_says_so(tmp_path):
    process = get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    process.kill()
    process.join()
    assert "memory is short: use fewer --jobs" in study_jobs._error(process, tmp_path / "no.log")


@pytest.mark.parametrize(
    "end, message", [((os.abort, ()), "its process was ended by SIGABRT"), ((sys.exit, (7,)), "ended with status 7")]
)
def test_a_run_whose_process_cannot_begin_says_so(tmp_path, end, message):
    """Its log is empty then, or ends with what went well."""
    process = get_context("spawn").Process(target=end[0], args=end[1])
    process.start()
    process.join()
    (tmp_path / "a.log").write_text("epoch 3/60: loss 0.4\n" if end[0] is os.abort else "")
    assert message in study_jobs._error(process, tmp_path / "a.log")


def test_seconds_are_those_of_the_machine_that_tells_the_cost_of_most_runs():
    """Of a run that starts from another both have to be known."""
    small = validate(Study, SMALL, "a study")
    places = [("fixed", "fast"), ("flexible", "fast"), ("flexible", "slow"), ("flexible", "slow"), ("flexible", "half")]
    machines = {"fast": ("a CPU", "bfloat16"), "slow": ("another", "bfloat16"), "half": ("a CPU", "float32")}
    seconds = {"metric": "train_seconds", "value": 1.0}
    rows = pl.DataFrame(
        [{"model": m, **seconds, **dict(zip(("machine", "precision"), machines[at], strict=True))} for m, at in places]
        + [{"model": "fixed", "metric": "train_gmac", "value": 2.0, "machine": "another", "precision": "bfloat16"}]
    )
    kept, machine = study_home.timed_alike(small, rows)
    assert machine == "a CPU, in bfloat16", "one processor has two speeds"
    assert kept.rows() == [rows.row(n) for n in (0, 1, 5)], "other costs are counted, and stay"
    kept, machine = study_home.timed_alike(small, rows[2:])
    assert machine is None and kept.rows() == [rows.row(5)]


def test_a_run_starts_from_an_earlier_one():
    with pytest.raises(AudiolibError, match="flexible starts from fixed, which no earlier run makes"):
        validate(Study, {**SMALL, "runs": SMALL["runs"][::-1]}, "s")


def test_tables_of_a_study_without_rows_say_what_to_run(project):
    with pytest.raises(AudiolibError, match=r"run `python -m audiolib\.study small` first"):
        study_tables.render("small")


@pytest.mark.parametrize(
    "method, factor, patch, hop",
    [("none", 1, 16, 10.0), ("avg_pool", 2, 16, 20.0), ("frame_shift", 1.5, 16, 15.0), ("patchify", 2, 32, 10.0)],
)
def test_a_run_is_at_home_where_its_last_phase_was(method, factor, patch, hop):
    run = {
        "name": "one",
        "preset": "ast",
        "recipe": {"phases": [PHASE, {**PHASE, "method": method, "compression": factor}]},
    }
    small = validate(Study, {**SMALL, "runs": [run]}, "a study")
    found = study_home.home_of(small.runs[0], "fsdd")
    assert (found.patch, found.hop_ms) == ((16, patch), hop)
