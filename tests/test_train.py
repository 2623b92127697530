"""Training: it learns, it hands over, it stops clearly."""

import csv

import pytest
import torch

from audiolib.errors import AudiolibError
from audiolib.objective import loss_of
from audiolib.optim import lr_factor
from audiolib.phases import draw_patch, phase_patch
from audiolib.pretrained import load, load_card
from audiolib.train import fit
from tests.recipes import TINY, augment, job, phase, recipe
from tests.test_resume import same, weights


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
    with pytest.raises(AudiolibError, match=r"torch finds no CUDA device"):
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
