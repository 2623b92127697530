"""Packed epochs: every clip once, as the seed says, at its own length; the same for any number of workers."""

from itertools import chain

import numpy as np
import pytest
import torch

from audiolib.dataset import read_split
from audiolib.epochs import Planner
from audiolib.loader import batches
from audiolib.models import create_model
from audiolib.views import View, draw_views
from tests.recipes import TINY, augment, packed_recipe, packing, phase

PLAIN = augment(freq_mask=0, time_mask=0, mixup=0.0, roll=0, noise=0.0)


@pytest.fixture(scope="module")
def clips(small_features):
    return read_split(small_features, "train", waveform=True)


@pytest.fixture(scope="module")
def net():
    shape = {key: value for key, value in TINY.items() if key not in ("name", "patch")}
    return create_model("elastic_nano", num_classes=12, frames=256, **shape)


def planner(clips, seed=1, **changes) -> Planner:
    return Planner(packed_recipe(packing=packing(**changes), augment=PLAIN), clips, 0.64, seed)


def members(epoch) -> list[list[int]]:
    return [sorted(index for index, _ in chain(*step)) for step in epoch.steps]


def test_every_clip_is_shown_once_an_epoch_at_its_planned_length(clips, net):
    epoch = planner(clips).epoch(phase(), 0, net)
    assert sorted(chain(*members(epoch))) == list(range(len(clips)))
    for batch, step in zip(batches(epoch), epoch.steps, strict=True):
        views = [view for _, view in step[0]]
        assert len(batch) == len(views) == len(batch.draws)
        assert batch.stretch == tuple(view.stretch for view in views)
        # At a hop that no whole number of stored frames makes, a clip may have one frame fewer than its length tells.
        assert all(view.seen - 1 <= n <= view.seen for n, view in zip(batch.lengths, views, strict=True))
        held = sum(net.trained_tokens(n) for n in batch.lengths)
        assert held <= 512 or len(batch) == 1


def test_seed_and_epoch_decide_the_plan_and_nothing_else(clips, net):
    def plan(seed, number):
        return planner(clips, seed).epoch(phase(), number, net).steps

    assert plan(1, 0) == plan(1, 0)
    assert plan(1, 0) != plan(1, 1) and plan(1, 0) != plan(2, 0)


@pytest.mark.parametrize("world, tokens", [(2, 512), (3, 512), (8, 128)])
def test_workers_share_the_packs_of_one(clips, net, world, tokens):
    whole = planner(clips, tokens=tokens).epoch(phase(), 0, net)
    parts = [planner(clips, tokens=tokens).epoch(phase(), 0, net, rank, world) for rank in range(world)]
    assert all(members(part) == members(whole) for part in parts)
    assert tokens == 512 or min(map(len, members(whole))) < world  # Some have no clip of their own in a small pack.
    for together, *made in zip(batches(whole), *map(batches, parts), strict=True):
        means = [share.weight * share.target[:, 0].mean() for share in made]
        shares = [share for share in made if share.weight]
        assert sum(map(len, shares)) == len(together)
        assert sorted(chain(*(share.draws for share in shares))) == sorted(together.draws)
        # With the weights, the mean over workers of their mean losses is the mean over clips.
        torch.testing.assert_close(sum(means) / world, together.target[:, 0].mean())


@pytest.mark.parametrize("processes", [0, 2])
def test_a_resumed_epoch_is_the_rest_of_the_whole_one_in_any_process(clips, net, processes):
    epoch = planner(clips).epoch(phase(), 3, net)
    for whole, part in zip(list(batches(epoch))[2:], batches(epoch, 2, processes), strict=True):
        assert whole.draws == part.draws and whole.lengths == part.lengths
        # A process of its own has one thread, and log-mel at a drawn hop is a matrix product: another order of adding.
        torch.testing.assert_close(part.mel, whole.mel, atol=1e-5 if processes else 0.0, rtol=0)


def test_views_are_drawn_from_the_lists():
    lengths = [50, 300, 4000] * 200
    drawn = draw_views(packing(longest_seconds=20), phase(), lengths, 10.0, seed=1, epoch=0)
    assert {view.hop for view in drawn} == {1.0, 1.4, 2.0, 4.0} and {view.pool for view in drawn} == {1, 2}
    assert not any(view.padded for view in drawn)
    for length, most in ((50, 50), (300, 300), (4000, 2000)):
        cuts = [view.frames for view, own in zip(drawn, lengths, strict=True) if own == length]
        assert min(cuts) >= 10 and max(cuts) <= most and np.mean(cuts) == pytest.approx((10 + most) / 2, rel=0.1)
    native = draw_views(packing(shortest_seconds=None), phase(), lengths, 10.0, seed=1, epoch=0)
    assert [view.frames for view in native] == [50, 300, 3000] * 200


def test_a_phase_makes_drawn_views_coarser():
    plain = draw_views(packing(), phase(), [100] * 50, 10.0, 1, 0)
    for method, attribute in (("frame_shift", "hop"), ("max_pool", "pool")):
        coarse = draw_views(packing(), phase(2, method), [100] * 50, 10.0, 1, 0)
        assert [getattr(view, attribute) for view in coarse] == [2 * getattr(view, attribute) for view in plain]


def test_an_unpadded_view_leaves_a_short_clip_as_it_is():
    mel = np.ones((30, 4), np.float32)
    assert len(View(64, padded=False).fit(mel)) == 30 and len(View(64).fit(mel)) == 64
    assert len(View(20, padded=False).fit(mel)) == 20


def test_efficiency_and_cost_are_those_of_the_plan(clips, net):
    plan = planner(clips)
    epoch = plan.epoch(phase(), 0, net)
    held = [sum(net.trained_tokens(view.seen) for _, view in step[0]) for step in epoch.steps]
    assert plan.efficiency(epoch, net, phase()) == pytest.approx(sum(held) / sum(max(512, h) for h in held))
    views = [view for step in epoch.steps for _, view in step[0]]
    assert plan.gmac(phase(), 0, net) == pytest.approx(sum(net.macs(view.seen) for view in views) / 1e9)


def test_a_pack_keeps_its_budget_at_every_patch_size_that_may_be_drawn(clips, net):
    drawn = packed_recipe(packing=packing(), augment=PLAIN, patch_sizes=[8, 16], valid_patch_sizes=[16])
    plan = Planner(drawn, clips, 0.64, 1)
    epoch = plan.epoch(phase(), 0, net)
    for pack in (step[0] for step in epoch.steps):
        held = sum(net.trained_tokens(view.seen, (8, 8)) for _, view in pack)
        assert held <= drawn.packing.tokens or len(pack) == 1
    assert len(epoch.steps) > len(planner(clips).epoch(phase(), 0, net).steps)


def test_the_models_positions_reach_as_far_as_the_longest_clip(clips):
    assert planner(clips).frames == clips.frames.max() and planner(clips, longest_seconds=0.5).frames == 50
