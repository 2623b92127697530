"""Packs: no clip lost, none twice, the budget kept, hardly a slot empty; workers share them evenly."""

import numpy as np
import pytest

from audiolib.packing import best_fit, deal, fill, next_fit


def tokens(name: str) -> list[int]:
    """Token counts of 4,000 clips at patch 16: short words of one or two seconds, or interviews of 4 s to 2 minutes."""
    random = np.random.default_rng(0)
    if name == "words":
        frames = np.clip(random.normal(43, 15, 4000), 14, 228)
    else:
        frames = 100 * np.clip(4 + random.exponential(4.3, 4000), 4, 145)
    return (8 * np.ceil(frames / 16)).astype(int).tolist()


PACKERS = {"next_fit": next_fit, "best_fit": lambda s, b: best_fit(s, b, 256)}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", ["words", "interviews"])
@pytest.mark.parametrize("budget", [64, 1024, 2048])
def test_every_clip_is_in_one_pack_and_no_pack_is_too_large(packer, name, budget):
    sizes = tokens(name)
    packs = PACKERS[packer](sizes, budget)
    assert sorted(place for pack in packs for place in pack) == list(range(len(sizes)))
    for pack in packs:
        assert sum(sizes[place] for place in pack) <= budget or len(pack) == 1


@pytest.mark.parametrize("packer", PACKERS)
def test_the_same_sizes_give_the_same_packs(packer):
    assert PACKERS[packer](tokens("words"), 1024) == PACKERS[packer](tokens("words"), 1024)


def test_next_fit_closes_a_pack_for_good():
    assert next_fit([5, 4, 2, 8, 1, 30, 1], budget=10) == [[0, 1], [2, 3], [4], [5], [6]]


def test_best_fit_takes_the_fullest_pack_that_has_room():
    assert sorted(map(sorted, best_fit([6, 3, 4, 7], budget=10, window=4))) == [[0, 2], [1, 3]]


def test_a_window_leaves_its_open_packs_to_the_next_one():
    assert best_fit([6, 4], budget=10, window=1) == [[0, 1]]


@pytest.mark.parametrize("name", ["words", "interviews"])
def test_best_fit_leaves_at_most_three_slots_in_a_hundred_empty(name):
    sizes = tokens(name)
    assert fill(sizes, best_fit(sizes, 2048, 256), 2048) >= 0.97


def test_fill_counts_empty_slots_and_takes_a_longer_clip_as_full():
    assert fill([5, 5, 4], [[0, 1], [2]], 10) == pytest.approx(14 / 20)
    assert fill([30], [[0]], 10) == 1.0


@pytest.mark.parametrize("world", [1, 2, 5])
def test_a_pack_is_dealt_evenly(world):
    sizes = tokens("words")[:60]
    shares = deal(list(range(60)), sizes, world)
    assert sorted(place for share in shares for place in share) == list(range(60))
    held = [sum(sizes[place] for place in share) for share in shares]
    assert max(held) - min(held) <= max(sizes)


def test_a_pack_of_fewer_clips_than_workers_leaves_some_without():
    assert sorted(map(len, deal([4, 9], [3] * 10, 5))) == [0, 0, 0, 1, 1]
