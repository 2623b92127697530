"""Training: it learns, it continues bit for bit, it stops clearly."""

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
from audiolib.objective import loss_of
from audiolib.optim import lr_factor
from audiolib.phases import draw_patch, phase_patch
from audiolib.pretrained import load, load_card
from audiolib.train import Trainer, fit
from tests.conftest import ROOT
from tests.recipes import TINY, augment, job, packed_recipe, phase, recipe

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


@pytest.mark.parametrize(
    "settings, stop", [(EQUAL, stop) for stop in (1, 4, 6, 9, 12, 17, 23)] + [(ELASTIC, stop) for stop in (2, 11)]
)
def test_killed_at_any_step_and_resumed_ends_with_the_same_bytes(small_features, tmp_path, monkeypatch, settings, stop):
    """Steps 6, 12, 18 of equal batches end an epoch; 12 is the hand-over from the coarse to the fine phase."""
    fit(job(small_features, tmp_path / "whole", **settings))

    real, steps = Trainer._step, []

    def dies(self, *rest):
        if len(steps) == stop:
            raise Killed
        steps.append(1)
        found = real(self, *rest)
        # A checkpoint after every step, so that the middle of an epoch is resumed, too.
        self.saved_at = -1e9
        return found

    monkeypatch.setattr(Trainer, "_step", dies)
    monkeypatch.setattr("audiolib.train._CHECK_EVERY", 1)
    with pytest.raises(Killed):
        fit(job(small_features, tmp_path / "cut", **settings))
    monkeypatch.setattr(Trainer, "_step", real)
    fit(job(small_features, tmp_path / "cut", **settings))
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


def test_a_model_learns_the_synthetic_classes(small_features, tmp_path):
    plain = recipe(
        phases=[phase(epochs=25, lr=3e-3)], patch_sizes=[16], valid_patch_sizes=[16], augment=augment(mixup=0.0)
    )
    rows = []
    fit(job(small_features, tmp_path, recipe=plain, seconds=1.28), rows.append)
    assert rows[-1]["train_loss"] < 0.75 * rows[0]["train_loss"]
    assert max(row["valid_score"] for row in rows) > 3 / 12
    assert [row["epoch"] for row in rows] == list(range(25))


def test_a_loss_that_is_no_number_stops_with_one_clear_line(small_features, tmp_path):
    wild = recipe(phases=[phase(lr=1e30)])
    with pytest.raises(
        AudiolibError, match=r"the loss became nan .* lower the learning rate \(lr is 1e\+30\)"
    ) as caught:
        fit(job(small_features, tmp_path, recipe=wild))
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("scratch/**/*.safetensors"))


def test_finetune_starts_from_the_best_weights_of_pretrain(small_features, tmp_path):
    fit(job(small_features, tmp_path / "a", recipe=recipe(phases=[phase(2, "avg_pool")])))
    assert load_card(tmp_path / "a/out").compression == 2
    later = job(small_features, tmp_path / "b", stage="finetune", start=tmp_path / "a/out", recipe=recipe(phases=[]))
    fit(later)
    assert same(weights(tmp_path / "a/out"), weights(tmp_path / "b/out"))


def test_no_phases_leave_the_initial_weights(small_features, tmp_path):
    fit(job(small_features, tmp_path, recipe=recipe(phases=[])))
    from audiolib.models import create_model

    settings = {key: value for key, value in TINY.items() if key != "name"}
    fresh = create_model("flexi_nano", 12, seed=1, frames=64, **settings)
    assert same(weights(tmp_path / "out"), fresh.state_dict())
    assert load(tmp_path / "out").config.frames == 64


@pytest.mark.parametrize(
    "optimizer, schedule, steps",
    [("adam", "steps", {"start": 1, "every": 1, "factor": 0.5}), ("adamw", "constant", None)],
)
def test_the_papers_optimiser_and_schedule_run(small_features, tmp_path, optimizer, schedule, steps):
    papers = recipe(
        optimizer=optimizer,
        schedule=schedule,
        steps=steps,
        betas=[0.95, 0.999],
        phases=[phase(epochs=3)],
        warmup_fraction=0.0,
    )
    rows = []
    fit(job(small_features, tmp_path, recipe=papers), rows.append)
    expected = [1e-3, 5e-4, 2.5e-4] if steps else [1e-3] * 3
    assert [row["lr"] for row in rows] == pytest.approx(expected)


def test_warm_up_rises_and_cosine_falls():
    plan = recipe(warmup_fraction=0.2)
    factors = [lr_factor(plan, step, 50, 10) for step in range(50)]
    rising, falling = factors[:11], factors[10:]
    assert rising == sorted(set(rising)) and max(factors) == factors[10] == 1.0
    assert falling == sorted(set(falling), reverse=True) and factors[-1] < 0.03


def test_patch_draws_follow_seed_step_and_shares():
    plan = recipe(patch_sizes=[8, 16, [16, 4]], patch_probabilities=[1.0, 3.0, 4.0])
    drawn = [draw_patch(plan, phase(), 1, step) for step in range(2000)]
    assert drawn == [draw_patch(plan, phase(), 1, step) for step in range(2000)]
    shares = [drawn.count(size) / 2000 for size in ((8, 8), (16, 16), (16, 4))]
    assert shares == pytest.approx([0.125, 0.375, 0.5], abs=0.04)
    assert phase_patch((16, 16), phase(2, "patchify")) == (16, 32)


def test_losses_are_torchs():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0.3, 0.7], [1, 0, 0]])
    soft = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss_of(logits, target, False, 0.0), soft)
    binary = -(target * logits.sigmoid().log() + (1 - target) * (-logits).sigmoid().log()).mean()
    torch.testing.assert_close(loss_of(logits, target, True, 0.0), binary)


def test_cuda_on_a_machine_without_it_is_one_line(small_features, tmp_path, monkeypatch):
    from audiolib.predict import pick_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AudiolibError, match=r"train\.device is cuda, but torch finds no CUDA device"):
        pick_device("cuda")


@pytest.mark.parametrize("method", ["avg_pool", "max_pool", "frame_shift", "patchify"])
@pytest.mark.parametrize("name", ["flexi_nano", "aum_nano"])
def test_every_compression_trains_at_half_the_cost_and_hands_over(small_features, tmp_path, name, method):
    shape = {"width": 24, "depth": 1, "patch": (16, 16), **({"heads": 2} if name == "flexi_nano" else {})}
    plan = recipe(phases=[phase(2, method), phase()], patch_sizes=[16], valid_patch_sizes=[16])
    fit(job(small_features, tmp_path, recipe=plan, architecture={"name": name, **shape}))
    rows = list(csv.DictReader((tmp_path / "out/history.csv").open()))
    coarse, whole = (float(row["gmac_cum"]) for row in rows)
    most = 0.75 if method == "patchify" else 0.6  # Wide patches halve the tokens, not what their projection sees.
    assert [row["method"] for row in rows] == [method, "none"] and 0.4 < coarse / (whole - coarse) < most
    card = load_card(tmp_path / "out")
    assert (card.compression, card.method, card.patch) == (1, "none", (16, 16))
    found = weights(tmp_path / "out" / "last")
    assert all(torch.isfinite(tensor).all() for tensor in found.values())


def test_a_training_may_be_asked_for_the_same_bits_on_a_gpu(small_features, tmp_path):
    """Then torch refuses operators that have none."""
    plan = job(small_features, tmp_path, deterministic=True, recipe=recipe(phases=[phase(epochs=1)]))
    try:
        fit(plan)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
