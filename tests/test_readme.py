"""The README's commands run, and its map of files is the territory."""

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT
from tests.corpora.replicas import fsdd
from tests.test_smoke import STAGES, call, clone, edit, ran  # noqa: F401

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line]
SHOWN = {"dvc metrics diff": "by_patch", "dvc exp show": "finetune.accuracy"}


def test_every_source_file_is_in_the_map_and_every_file_of_the_map_exists():
    block = re.search(r"```\ndvc\.yaml.*?```", README, re.S)[0]
    named = set(re.findall(r"[\w/]+\.py\b", block))
    files = {path.name for path in (ROOT / "audiolib").glob("*.py")} - {"__init__.py"}
    assert files - named == set()
    existing = {path.name for path in ROOT.glob("audiolib/**/*.py")}
    assert named - existing == set()


def test_the_python_lines_run(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    lines = code[: code.index("trained =")].splitlines()  # The folder comes from a run; see below.
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_commands_are_those_that_are_tried():
    assert COMMANDS == [
        "make repro",
        "make ui",
        "source .venv/bin/activate",
        "audiolib predict recording.wav folder/of/sounds --model data/finetune",
        "audiolib predict recording.wav --model data/finetune --window 1 --stride 0.5 --patch 12 --json",
        "audiolib embed recording.wav --model data/finetune",
        "audiolib info data/finetune",
        "audiolib doctor",
        "dvc exp run -S data=folder -S download.folder=/path/to/clips",
        "dvc exp run -S model=elastic",
        "dvc exp run -S data=fsdd -S seed=2",
        "dvc metrics diff",
        "dvc exp show",
        "audiolib compare --data synthetic",
        "audiolib pick --data synthetic --max-gmac 0.05",
        "python -m audiolib.study elastic --corpus fsdd --seed 1 --again",
        "python -m audiolib.study_tables elastic",
        "python -m audiolib.bench flexible",
    ]


@pytest.fixture(scope="module")
def installed(clone):  # noqa: F811
    """The small clone, with this environment in the place where `make install` would put one."""
    (clone / ".venv").symlink_to(Path(sys.prefix))
    return clone


def make(folder: Path, target: str) -> str:
    """Run a target as if `make install` had just been done."""
    return call(folder, "make", "--old-file", ".venv/.installed", target)


@pytest.mark.slow
def test_make_repro_then_every_other_command(installed, tmp_path):
    make(installed, "repro")
    tone = np.sin(2 * np.pi * 440 * np.arange(32000) / 16000) * 0.3
    soundfile.write(installed / "recording.wav", tone, 16000)
    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    assert len(call(installed, sys.executable, "-c", code).splitlines()) == 3
    (installed / "recording.wav").unlink()
    call(installed, "git", "add", "-A")
    call(installed, "git", "commit", "-qm", "results")
    clips = tmp_path / "clips"
    for number, name in enumerate(("low", "high")):
        (clips / name).mkdir(parents=True)
        for i in range(20):
            tone = np.sin(2 * np.pi * (300 + 900 * number + 10 * i) * np.arange(30000) / 44100) * 0.3
            soundfile.write(clips / name / f"{i}.mp3", np.stack([tone, 0.5 * tone], axis=1), 44100)
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    archive = fsdd(mirror / "free-spoken-digit-dataset.tar.gz")
    trusted = subprocess.check_output(["sha256sum", archive], text=True).split()[0]
    paths = {"/path/to/clips": clips, "folder/of/sounds": clips, "recording.wav": clips / "low/0.mp3"}
    for command in COMMANDS[3:]:
        words = shlex.split(re.sub("|".join(paths), lambda found: str(paths[found[0]]), command))
        if "data=fsdd" in words:
            words += ["-S", f"download.sha256={trusted}"]
        if "audiolib.study" in words:
            shrink_study(installed, trusted)
        if "audiolib.bench" in words:
            words += ["--rounds", "1"]
        told = call(installed, *words, AUDIOLIB_MIRROR=str(mirror))
        if "model=elastic" in words:
            assert ran(told) == STAGES[2:], "another model needs neither the clips nor their log-mel again"
        assert SHOWN.get(command, "") in told


def shrink_study(folder: Path, trusted: str) -> None:
    """The first and the last run of the study, an epoch each, at two shapes."""
    edit(folder / "params.yaml", lambda c: c["download"].update(sha256=trusted))

    def small(content):
        content.update(seconds=[0.32], hops_ms=[10, 20], runs=[content["runs"][0], content["runs"][-1]])
        for run in content["runs"]:
            run["recipe"]["phases"] = [{**run["recipe"]["phases"][0], "epochs": 1}]

    edit(folder / "configs/study/elastic.yaml", small)


@pytest.mark.slow
def test_make_ui_opens_where_models_are_compared(installed, tmp_path):
    """With a browser that notes what it is told to open."""
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    browser.chmod(0o755)
    call(installed, sys.executable, "-c", "from audiolib.tracking import *; attach(Path.cwd())")  # Something to show.
    assert "python -m audiolib.ui" in call(installed, "make", "-n", "-o", ".venv/.installed", "ui")
    server = subprocess.Popen(
        [sys.executable, "-m", "audiolib.ui", "--port", "5077"],
        cwd=installed,
        env={**os.environ, "BROWSER": str(browser), "DISPLAY": ":0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(240):
            time.sleep(0.5)
            if opened.exists():
                break
        assert re.fullmatch(
            r"http://127\.0\.0\.1:5077/#/(experiments/\d+/runs\?compareRunsMode=CHART|metric\?runs=\S+)\n",
            opened.read_text(),
        )
        with urllib.request.urlopen("http://127.0.0.1:5077/health", timeout=2) as answer:
            assert answer.read() == b"OK"
        shown = opened.read_text()
        opened.unlink()  # Where a server runs already, it alone is opened.
        there = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5077", "BROWSER": str(browser), "DISPLAY": ":0"}
        command = [sys.executable, "-m", "audiolib.ui"]
        subprocess.run(command, cwd=installed, env={**os.environ, **there}, check=True, timeout=60)
        assert opened.read_text() == shown
    finally:
        server.terminate()
        server.wait(timeout=20)
    with pytest.raises(OSError):  # The server has ended with it.
        urllib.request.urlopen("http://127.0.0.1:5077/health", timeout=2)
