"""A training that is killed continues bit for bit, and a damaged checkpoint is not the end of it."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audiolib import checkpoint
from audiolib.checkpoint import Checkpoints
from audiolib.errors import AudiolibError
from audiolib.job import Job
from audiolib.train import Trainer, fit
from tests.conftest import ROOT
from tests.recipes import TINY, job, packed_recipe, phase, recipe

TWO_PHASES = [phase(2, "avg_pool", epochs=2), phase(epochs=2)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


class Killed(BaseException):
    """Stands for a signal that no handler of the loop catches."""


def test_two_runs_end_with_the_same_bytes_and_another_seed_does_not(small_features, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fit(job(small_features, tmp_path / name, recipe=recipe(phases=TWO_PHASES), seed=seed))
    one, two, other = (weights(tmp_path / name / "out") for name in "abc")
    assert same(one, two) and not same(one, other)


ELASTIC = {"architecture": {**TINY, "name": "elastic_nano"}, "recipe": packed_recipe(phases=TWO_PHASES)}


EQUAL = {"recipe": recipe(phases=TWO_PHASES)}


def fit_killed_before(stop: int, monkeypatch: pytest.MonkeyPatch, plan: Job) -> None:
    """Train until a step, with a checkpoint after every one, so that the middle of an epoch is resumed, too."""
    real, steps = Trainer._step, []

    def dies(self, *rest):
        if len(steps) == stop:
            raise Killed
        steps.append(1)
        found = real(self, *rest)
        self.saved_at = -1e9
        return found

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Trainer, "_step", dies)
        patched.setattr("audiolib.train._CHECK_EVERY", 1)
        fit(plan)


@pytest.mark.parametrize(
    "settings, stop", [(EQUAL, stop) for stop in (1, 4, 6, 9, 12, 17, 23)] + [(ELASTIC, stop) for stop in (2, 11)]
)
def test_killed_at_any_step_and_resumed_ends_with_the_same_bytes(small_features, tmp_path, monkeypatch, settings, stop):
    """Steps 6, 12, 18 of equal batches end an epoch; 12 is the hand-over from the coarse to the fine phase."""
    fit(job(small_features, tmp_path / "whole", **settings))
    fit_killed_before(stop, monkeypatch, plan := job(small_features, tmp_path / "cut", **settings))
    fit(plan)
    for folder in ("out", "out/last"):
        assert same(weights(tmp_path / "whole" / folder), weights(tmp_path / "cut" / folder))
    rows = [list(csv.DictReader((tmp_path / name / "out/history.csv").open())) for name in ("whole", "cut")]
    assert [{**row, "seconds": ""} for row in rows[0]] == [{**row, "seconds": ""} for row in rows[1]]


def test_killed_between_the_last_step_of_an_epoch_and_its_row(small_features, tmp_path, monkeypatch):
    fit(job(small_features, tmp_path / "whole", **EQUAL))
    real, calls = Trainer.validate, []

    def dies(self, phase):
        calls.append(phase)
        if len(calls) == 2:
            raise Killed
        return real(self, phase)

    monkeypatch.setattr(Trainer, "validate", dies)
    monkeypatch.setattr("audiolib.train._CHECK_EVERY", 1)
    with pytest.raises(Killed):
        fit(job(small_features, tmp_path / "cut", **EQUAL, checkpoint_seconds=1e-9))
    fit(job(small_features, tmp_path / "cut", **EQUAL, checkpoint_seconds=1e-9))
    rows = [list(csv.DictReader((tmp_path / name / "out/history.csv").open())) for name in ("whole", "cut")]
    assert [{**row, "seconds": ""} for row in rows[0]] == [{**row, "seconds": ""} for row in rows[1]]


@pytest.mark.slow
def test_a_process_killed_by_a_signal_continues(small_features, tmp_path):
    script = f"""
from pathlib import Path
from tests.recipes import job, phase, recipe
from audiolib.train import fit
fit(job(Path({str(small_features)!r}), Path({str(tmp_path)!r}) / "cut", recipe=recipe(phases=[phase(epochs=8)])))
"""
    child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("cut/scratch/checkpoints/*/*/*.json")):
        time.sleep(0.02)
        assert child.poll() is None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    again = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and "continuing after step" in again.stderr
    settings = {"recipe": recipe(phases=[phase(epochs=8)])}
    fit(job(small_features, tmp_path / "whole", **settings))
    assert same(weights(tmp_path / "whole" / "out"), weights(tmp_path / "cut" / "out"))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_killed_before_a_checkpoints_description_the_one_before_is_whole(
    small_features, tmp_path, monkeypatch, capfd, count
):
    """With one checkpoint kept: the second and the fourth epoch end a phase, which is saved after the same step."""
    fit(job(small_features, tmp_path / "whole", **EQUAL))
    real, calls = checkpoint.write_sealed, []

    def dies(*rest):
        calls.append(1)
        if len(calls) == count:
            raise Killed
        real(*rest)

    monkeypatch.setattr(checkpoint, "write_sealed", dies)
    with pytest.raises(Killed):
        fit(job(small_features, tmp_path / "cut", keep_checkpoints=1, **EQUAL))
    monkeypatch.setattr(checkpoint, "write_sealed", real)
    capfd.readouterr()
    fit(job(small_features, tmp_path / "cut", keep_checkpoints=1, **EQUAL))
    told = capfd.readouterr().err
    assert "continuing after step" in told and "damaged" not in told
    assert same(weights(tmp_path / "whole" / "out"), weights(tmp_path / "cut" / "out"))


def test_a_damaged_checkpoint_does_not_outlive_those_that_are_made_after_it(tmp_path):
    store = Checkpoints(tmp_path, {"what": 1}, keep=1)
    store.save(9, {"w": torch.zeros(1)}, {"step": 9})
    (damaged,) = store.folder.glob("*.safetensors")
    damaged.write_bytes(b"")
    store.save(1, {"w": torch.ones(1)}, {"step": 1})
    assert store.newest().state == {"step": 1} and not damaged.exists()


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, capfd):
    store = Checkpoints(tmp_path, {"what": 1})
    for step in (1, 2, 3):
        store.save(step, {"w": torch.full((3,), float(step))}, {"step": step})
    assert len(list(store.folder.glob("*.safetensors"))) == 2
    newest = sorted(store.folder.glob("*.safetensors"))[-1]
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    _, tensors, state = store.newest()
    assert state == {"step": 2} and tensors["w"][0] == 2
    assert "step-000000003-00000.safetensors is damaged" in capfd.readouterr().err
    assert Checkpoints(tmp_path, {"what": 2}).newest() is None


def test_an_old_checkpoint_that_cannot_be_removed_is_one_line(tmp_path):
    store = Checkpoints(tmp_path, {"what": 1}, keep=1)
    (store.folder / "step-000000000-00000.json").mkdir(parents=True)
    with pytest.raises(AudiolibError, match="Is a directory"):
        store.save(1, {"w": torch.zeros(1)}, {})


def test_as_many_checkpoints_stay_as_are_asked_for(small_features, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "clear", lambda self: None)
    monkeypatch.setattr("audiolib.train._CHECK_EVERY", 1)
    fit(
        job(
            small_features,
            tmp_path,
            recipe=recipe(phases=[phase(epochs=1)]),
            checkpoint_seconds=1e-9,
            keep_checkpoints=4,
        )
    )
    assert len(list(tmp_path.glob("scratch/checkpoints/*/*/*.safetensors"))) == 4


def test_a_checkpoint_that_its_owner_has_just_removed_is_the_oldest(tmp_path):
    (tmp_path / "a").touch()
    assert sorted([tmp_path / "gone", tmp_path / "a"], key=checkpoint._age) == [tmp_path / "a", tmp_path / "gone"]
