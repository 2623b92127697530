"""Batches: an order that only (seed, epoch) decides, sliced and resumed without loss; compression; augmentation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from audiolib.augment import add_noise, fit_length, mask_bands, mask_frames, mix, roll, trim
from audiolib.batches import Batch, pooled
from audiolib.dataset import read_split
from audiolib.frontend import Frontend, from_int16, log_mel
from audiolib.loader import Epoch, EqualSteps, batches, eval_batches, steps_per_epoch
from audiolib.order import epoch_order
from audiolib.views import View
from tests.recipes import augment

VIEW = View(64)


@pytest.fixture(scope="module")
def clips(small_features):
    return read_split(small_features, "train")


def run(clips, view=VIEW, seed=1, epoch=0, *, size=16, start=0, rank=0, world=1, changes=None) -> list[Batch]:
    order = epoch_order(clips, seed, epoch)
    steps = EqualSteps(order.clips, view, size, world)
    return list(batches(Epoch(clips, changes or augment(), view.frames, seed, epoch, steps, order, rank), start))


def test_seed_and_epoch_decide_an_epoch_and_nothing_else(clips):
    one, again = run(clips), run(clips)
    assert all(torch.equal(a.mel, b.mel) and torch.equal(a.target, b.target) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0].mel, run(clips, seed=2)[0].mel)
    assert not torch.equal(one[0].mel, run(clips, epoch=1)[0].mel)


@pytest.mark.parametrize("start", [0, 1, 5])
def test_a_resumed_epoch_is_the_rest_of_the_whole_one(clips, start):
    rest = run(clips, start=start)
    assert len(rest) == steps_per_epoch(len(clips), 16) - start
    for whole, part in zip(run(clips)[start:], rest, strict=True):
        assert torch.equal(whole.mel, part.mel)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_workers_slice_the_same_global_batch(clips, world):
    parts = [run(clips, rank=rank, world=world) for rank in range(world)]
    for step, whole in enumerate(run(clips)):
        frames = torch.cat([parts[rank][step].mel for rank in range(world)]).sum(1)
        assert sum(len(parts[rank][step]) for rank in range(world)) == len(whole) == 16
        assert torch.equal(frames.sort().values, whole.mel.sum(1).sort().values)


def test_every_clip_is_tried_once_an_epoch(clips):
    plain = augment(freq_mask=0, time_mask=0, mixup=0.0, roll=0, noise=0.0)
    seen = [b.target for b in run(clips, size=8, changes=plain)]
    assert torch.equal(torch.cat(seen).sum(0), torch.from_numpy(clips.target).sum(0))  # 96 clips, 12 batches of 8.


@pytest.mark.parametrize("hop, pool", [(1.0, 1), (2.0, 1), (4.0, 1), (1.0, 2)])
def test_masks_last_as_long_at_every_resolution(clips, hop, pool):
    """The widest run of masked stored frames is the same share of a clip, whatever the hop."""
    only = augment(freq_mask=0, time_mask=32, mixup=0.0, roll=0, noise=0.0)
    none = augment(freq_mask=0, time_mask=0, mixup=0.0, roll=0, noise=0.0)
    view, widest = View(64, hop, pool, "avg_pool"), 0.0
    for epoch in range(8):
        pair = (run(clips, view, epoch=epoch, changes=changes) for changes in (only, none))
        for masked, whole in zip(*pair, strict=True):
            changed = (masked.mel != whole.mel).any(1).reshape(len(masked), -1).sum(1)
            widest = max(widest, float(changed.max()) * view.stretch)
    assert 20 <= widest <= 32 + 2 * view.stretch


@pytest.mark.parametrize("world", [1, 2])
def test_a_clip_that_comes_again_is_changed_in_another_way(clips, world):
    order = epoch_order(clips, 1, 0)
    again = np.repeat(order.clips[:4], 8)  # Eight times each, four steps of eight.
    steps = EqualSteps(again, VIEW, 8, world)
    shares = [
        list(batches(Epoch(clips, augment(), 64, 1, 0, steps, order, rank, repeats=True))) for rank in range(world)
    ]
    seen = [mel.sum().item() for share in shares for batch in share for mel in batch.mel.split(64)]
    assert len(set(seen)) == 32
    one = [mel.sum().item() for batch in batches(Epoch(clips, augment(), 64, 1, 0, EqualSteps(again, VIEW, 8), order,
           repeats=True)) for mel in batch.mel.split(64)]  # fmt: skip
    assert sorted(seen) == sorted(one), "whatever the number of workers"


def test_evaluation_keeps_order_and_cuts_at_the_start(clips):
    batches = list(eval_batches(clips, VIEW, batch_frames=640))
    assert [len(b) for b in batches[:2]] == [10, 10] and sum(map(len, batches)) == len(clips)
    long = int((clips.frames > 64).argmax())
    shown = torch.cat([b.mel for b in batches])[long * 64 : (long + 1) * 64].numpy()
    np.testing.assert_allclose(
        shown, (clips.held.mel(long)[:64].astype(np.float32) - clips.mean) / (2 * clips.std), atol=1e-5
    )


def test_the_normalised_training_split_has_mean_0_and_deviation_one_half(clips):
    values = np.concatenate([clips.normalised(m.astype(np.float32)).ravel() for m in clips.held.mels])
    assert values.mean() == pytest.approx(0, abs=1e-3) and values.std() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("method", ["avg_pool", "max_pool"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_pooling_is_the_papers_definition(method, factor):
    mel = torch.randn(2, 24, 5, generator=torch.Generator().manual_seed(0))
    groups = mel.unflatten(1, (-1, factor))
    expected = {"avg_pool": groups.mean(2), "max_pool": groups.amax(2)}[method]
    torch.testing.assert_close(pooled(mel, factor, method), expected)


@pytest.mark.parametrize("hop", [1.0, 1.3, 2.0, 2.55, 4.0])
def test_frame_shift_is_the_front_end_at_a_longer_hop(small_features, hop):
    """Also where no whole multiple of the stored hop helps; the stored sound has 16 bits, the stored log-mel too."""
    clips = read_split(small_features, "valid", waveform=True)
    for index in range(3):
        settings = Frontend(**{**clips.frontend, "hop_ms": clips.frontend["hop_ms"] * hop})
        wanted = log_mel(from_int16(clips.held.waves[index]), settings)
        found = clips.log_mel(index, hop)
        assert found.shape == wanted.shape
        loud = wanted > wanted.max() - 12  # 16 bits of sound leave their noise in what is quieter.
        np.testing.assert_allclose(found[loud], wanted[loud], atol=0.1)


def test_a_fractional_hop_needs_the_sound(small_features):
    with pytest.raises(ValueError, match="needs the sound"):
        read_split(small_features, "valid").log_mel(0, 1.5)


@pytest.mark.parametrize(
    ("view", "seen", "stretch"),
    [
        (View(64).coarser(1.5, "frame_shift"), 43, 1.5),
        (View(64).coarser(2, "frame_shift"), 32, 2.0),
        (View(21).coarser(1.4, "frame_shift"), 15, 1.4),
        (View(63).coarser(2, "max_pool"), 32, 2.0),
        (View(64).coarser(2, "patchify"), 64, 1.0),
    ],
)
def test_a_view_says_what_its_batches_are(small_features, view, seen, stretch):
    clips = read_split(small_features, "valid", waveform=view.needs_sound)
    batch = run(clips, view, size=8)[0]
    assert batch.lengths == (seen,) * 8 == (view.seen,) * 8 and batch.stretch == (stretch,) * 8


def test_a_remainder_is_pooled_over_what_there_is():
    mel = torch.arange(7.0).reshape(1, 7, 1)
    assert pooled(mel, 2, "avg_pool").flatten().tolist() == [0.5, 2.5, 4.5, 6.0]
    assert pooled(mel, 2, "max_pool").flatten().tolist() == [1, 3, 5, 6]


def test_coarse_batches_have_fewer_frames_that_count_longer(clips):
    coarse = run(clips, View(64).coarser(2, "avg_pool"))[0]
    assert coarse.lengths == (32,) * 16 and coarse.stretch == (2.0,) * 16
    wide = run(clips, View(64).coarser(2, "patchify"))[0]
    assert wide.lengths == (64,) * 16 and wide.stretch == (1.0,) * 16


def test_a_pack_refuses_lengths_that_do_not_add_up():
    with pytest.raises(ValueError, match="10 frames"):
        Batch(torch.zeros(10, 4), (4, 5), (1.0, 1.0))
    with pytest.raises(ValueError, match="3 draws for 2 clips"):
        Batch(torch.zeros(9, 4), (4, 5), (1.0, 1.0), draws=(1, 2, 3))


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_masks_set_one_run_to_the_mean_and_leave_the_rest():
    mel = np.ones((50, 30), np.float32)
    widths = []
    for seed in range(200):
        bands, frames = mask_bands(mel, 8, random(seed)), mask_frames(mel, 8, random(seed))
        gone = np.flatnonzero((bands == 0).all(0))
        assert (bands == 0).sum() == len(gone) * 50 and (np.diff(gone) == 1).all()
        assert (frames == 0).sum() == (frames == 0).all(1).sum() * 30
        widths.append(len(gone))
    assert min(widths) == 0 and max(widths) == 7 and (mel == 1).all()


def test_mixing_adds_powers():
    loud, silent = np.full((2, 3), 2.0, np.float32), np.full((2, 3), -60.0, np.float32)
    np.testing.assert_allclose(mix(loud, silent, 0.5), 2.0 + 2 * np.log(0.5), atol=1e-5)
    np.testing.assert_allclose(mix(loud, loud, 0.5), 2.0 - np.log(2), atol=1e-5)
    np.testing.assert_allclose(mix(loud, silent, 1.0), loud, atol=1e-5)


def test_roll_noise_and_length():
    mel = np.arange(20, dtype=np.float32).reshape(10, 2)
    assert sorted(roll(mel, 3, random())[:, 0]) == sorted(mel[:, 0])
    noisy = add_noise(mel, 0.1, random())
    assert noisy.dtype == np.float32 and (noisy - mel).min() >= 0 and (noisy - mel).max() <= 0.1
    assert np.array_equal(fit_length(mel, 4), mel[:4])
    assert np.array_equal(fit_length(mel, 12, fill=7.0)[10:], np.full((2, 2), 7.0))
    starts = {float(fit_length(mel, 4, random(seed))[0, 0]) for seed in range(100)}
    assert starts == {0, 2, 4, 6, 8, 10, 12}


def test_trim_cuts_the_start_and_leaves_a_frame():
    mel = np.arange(20, dtype=np.float32).reshape(10, 2)
    starts = {float(trim(mel, 3, random(seed))[0, 0]) for seed in range(100)}
    assert starts == {0, 2, 4, 6} and trim(mel, 3, random())[-1, 0] == 18
    assert {len(trim(mel[:1], 8, random(seed))) for seed in range(20)} == {1}


@pytest.mark.parametrize("kind, window", [("kaldi", 25.0), ("stft", 10.0)])
def test_mixed_log_mel_is_about_that_of_the_mixed_sound(kind, window):
    frontend = Frontend(16000, 64, window, 10.0, kind)
    one, two = (random().normal(0, level, 16000).astype(np.float32) for level in (0.1, 0.02))
    two = np.roll(two, 777)
    for share in (0.3, 0.5, 0.7):
        wanted = log_mel(share * one + (1 - share) * two, frontend)
        found = mix(log_mel(one, frontend), log_mel(two, frontend), share, 1 if kind == "stft" else 2)
        assert abs(float((found - wanted).mean())) < 0.12, "0.3 to 0.4 where magnitudes are taken for powers"


def test_clips_know_whether_their_log_mel_is_of_powers_or_magnitudes(clips):
    assert clips.power == 2 and replace(clips, frontend={**clips.frontend, "kind": "stft"}).power == 1


def test_where_both_clips_are_padding_so_is_their_mixture(clips):
    whole = View(int(clips.frames.max()) + 50)
    plain = augment(freq_mask=0, time_mask=0, mixup=1.0, roll=0, noise=0.0)
    for batch in run(clips, whole, changes=plain):
        assert bool((batch.mel.reshape(len(batch), whole.frames, -1)[:, -50:] == 0).all())


def test_a_hop_is_what_was_asked_for_whatever_the_stored_one(small_features):
    """12.5 times 14.5 / 12.5 is a little less than 14.5, of which a front end would make a sample too few."""
    clips = read_split(small_features, "valid", waveform=True)
    stored = replace(clips, frontend={**clips.frontend, "hop_ms": 12.5})
    wanted = log_mel(from_int16(clips.held.waves[0]), Frontend(**{**clips.frontend, "hop_ms": 14.5}))
    np.testing.assert_array_equal(stored.log_mel(0, 14.5 / 12.5), wanted)
