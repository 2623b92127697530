"""The whole pipeline as a user runs it, on a tiny setting, in a fresh clone with DVC."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
STAGES = ["download", "features", "pretrain", "finetune", "evaluate", "report"]


def call(folder: Path, *command: str, **environment: str) -> str:
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
    variables.pop("DVC_ROOT", None)
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def ran(output: str) -> list[str]:
    return [name for name in STAGES if f"Running stage '{name}'" in output]


def edit(path: Path, change) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def shrink(folder: Path) -> None:
    """The same pipeline with few clips, one epoch and a tiny model."""
    edit(folder / "configs/data/synthetic.yaml", lambda c: c["source"].update(clips_per_class=12))
    edit(folder / "configs/data/synthetic.yaml", lambda c: c.update(seconds=0.64, eval_seconds=[0.32, 0.64]))
    edit(folder / "configs/evaluate/matrix.yaml", lambda c: c.update(patch_sizes=[16, 32], hops_ms=[10, 20]))
    for preset in (folder / "configs/model").glob("*.yaml"):

        def tiny(content):
            size = content["architecture"]["patch"] = content["finetune"]["patch_sizes"][-1]
            for stage in ("pretrain", "finetune"):
                content[stage]["phases"] = [{**phase, "epochs": 1} for phase in content[stage]["phases"]]
                content[stage].pop("patch_probabilities", None)
                content[stage]["patch_sizes"] = content[stage]["valid_patch_sizes"] = [size]

        edit(preset, tiny)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clone") / "project"
    call(ROOT, "git", "clone", "--quiet", str(ROOT), str(folder))
    changed = call(ROOT, "git", "ls-files", "--modified", "--others", "--exclude-standard").split()
    for name in changed:  # What is not committed yet is tested, too.
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    shrink(folder)
    for setting in (("user.name", "test"), ("user.email", "test@example.org")):
        call(folder, "git", "config", *setting)
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "small")
    return folder


def test_the_pipeline_runs_and_then_reruns_only_what_a_change_touches(clone):
    assert ran(call(clone, "dvc", "repro")) == STAGES
    rows = pl.read_parquet(clone / "data/evaluate/rows.parquet")
    assert set(rows["stage"]) == {"pretrain", "finetune"} and len(rows) == 2 * (2 * 2 + 1) * 3
    assert (clone / "data/report/report.html").stat().st_size > 50_000
    assert (clone / "mlflow.db").exists()
    assert not list((clone / ".scratch").glob("features/*"))

    assert ran(call(clone, "dvc", "repro")) == []

    edit(clone / "configs/evaluate/matrix.yaml", lambda c: c.update(patch_sizes=[32]))
    assert ran(call(clone, "dvc", "repro")) == ["evaluate", "report"]
    edit(clone / "configs/evaluate/matrix.yaml", lambda c: c.update(patch_sizes=[16, 32]))
    assert ran(call(clone, "dvc", "repro")) == []  # Restored from the run cache.
    assert len(pl.read_parquet(clone / "data/evaluate/rows.parquet")) == 30

    with (clone / "audiolib/models/parts.py").open("a") as handle:
        handle.write("# changed\n")
    # The report reads results, not models: it reruns once those have changed.
    assert ran(call(clone, "dvc", "repro", "--dry")) == ["pretrain", "finetune", "evaluate"]
    call(clone, "git", "checkout", "audiolib/models/parts.py")
    for unused in ("README.md", "tests/conftest.py", "audiolib/kernels/check.py", "configs/model/ast.yaml"):
        with (clone / unused).open("a") as handle:
            handle.write("# changed\n")
    assert ran(call(clone, "dvc", "repro", "--dry")) == []
    call(clone, "git", "checkout", ".")


def test_a_stage_runs_alone_from_any_folder(clone, tmp_path):
    call(tmp_path, sys.executable, "-m", "stages.report", PYTHONPATH=str(clone))
    assert (clone / "data/report/report.html").exists()


@pytest.mark.parametrize(
    "setting, message",
    [
        ("model=nosuch", "configs/model/nosuch.yaml"),
        ("modle=ast", "modle"),
    ],
)
def test_a_mistaken_setting_stops_before_anything_runs(clone, setting, message):
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["dvc", "exp", "run", "-S", setting], cwd=clone, env=variables, capture_output=True, text=True
    )
    assert done.returncode != 0 and message in done.stdout + done.stderr and ran(done.stdout) == []


def test_a_users_mistake_is_one_line_without_a_traceback(clone):
    edit(clone / "params.yaml", lambda c: c["features"].update(mel_bins="many"))
    done = subprocess.run([sys.executable, "-m", "stages.features"], cwd=clone, capture_output=True, text=True)
    call(clone, "git", "checkout", "params.yaml")
    assert done.returncode == 1 and done.stderr.startswith("error: params.yaml.features.mel_bins")
    assert done.stderr.count("\n") == 1
