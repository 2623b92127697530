"""One pass over the clips of a sweep: nothing is asked twice, and each cell has what it would have alone."""

import numpy as np
import pytest
import torch
from polars.testing import assert_frame_equal

from audiolib.dataset import read_split
from audiolib.evaluate import Outcome, _mean_ms, sweep
from audiolib.grid import Cell, Grid, Trained
from audiolib.models import create_model
from audiolib.pretrained import Card, save_pretrained
from audiolib.results import table
from audiolib.shards import ShardFolder
from audiolib.sweep_pass import _timed_logits

SIZE = (16, 16)


@pytest.fixture
def clips(small_features):
    return read_split(small_features, "test")


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many clips each call of a model was about."""
    counts = []

    def counted(task, clips, places, *rest):
        counts.append(len(places))
        return _timed_logits(task, clips, places, *rest)

    monkeypatch.setattr("audiolib.sweep_pass._timed_logits", counted)
    return counts


def untrained(features, folder, *, padded: bool, compression: int = 1) -> Trained:
    """A small model of random weights that tells classes apart somehow."""
    shards, clips = ShardFolder(features), read_split(features, "test")
    model = create_model("elastic_nano", len(shards.classes), frames=64, width=24, depth=1, heads=2)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    frontend = {**shards.frontend, "mean": clips.mean, "std": clips.std}
    method = "none" if compression == 1 else "avg_pool"
    save_pretrained(model, Card(shards.classes, False, frontend, SIZE, 64, compression, method, padded), folder)
    return Trained(folder, "finetune", "elastic")


def lengths(clips) -> list[float]:
    """Seconds: no clip is shorter, three tenths are, seven tenths are, all are."""
    shortest, low, high, longest = np.quantile(clips.frames, [0, 0.3, 0.7, 1]).astype(int).tolist()
    return [shortest / 100, low / 100, high / 100, longest / 100 + 0.09]


def swept(entry: Trained, features, cells: list[Cell], scratch) -> Outcome:
    return sweep([entry], features, Grid("test", cells, 9.0), {}, scratch=scratch)


def assert_as_alone(found: Outcome, entry: Trained, features, cells: list[Cell], scratch) -> None:
    """Each cell's numbers are those of a sweep of this cell; time aside."""
    for number, cell in enumerate(cells):
        alone = swept(entry, features, [cell], scratch)
        rows = table(found.rows[3 * number : 3 * number + 3])
        assert_frame_equal(table(alone.rows).drop("ms"), rows.drop("ms"), abs_tol=1e-6)
        assert_frame_equal(alone.scores[0], found.scores[number], abs_tol=1e-6)


@pytest.mark.parametrize("hop_ms", [None, 14.0])
def test_a_clip_that_was_seen_whole_is_not_asked_again(small_features, tmp_path, clips, asked, hop_ms):
    """An unpadded model sees the same of a clip at all lengths beyond its own; what it said is carried over."""
    entry = untrained(small_features, tmp_path / "m", padded=False)
    shortest, low, high, beyond = lengths(clips)
    cells = [Cell(SIZE, seconds, hop_ms) for seconds in (high, shortest, beyond, low)]
    found = swept(entry, small_features, cells, tmp_path)
    assert asked[0] == len(clips) > asked[1] > asked[2] > 0, "fewer clips at each greater length"
    assert len(asked) == 3 or asked[3] < asked[2]
    assert_as_alone(found, entry, small_features, cells, tmp_path)


def test_a_padded_model_is_asked_about_every_clip_at_every_length(small_features, tmp_path, clips, asked):
    entry = untrained(small_features, tmp_path / "m", padded=True)
    cells = [Cell(SIZE, seconds) for seconds in lengths(clips)]
    found = swept(entry, small_features, cells, tmp_path)
    assert asked == [len(clips)] * 4
    assert_as_alone(found, entry, small_features, cells, tmp_path)


def test_what_a_pooled_model_said_is_not_taken_for_what_it_says_without_pooling(small_features, tmp_path, clips):
    """Two frames pooled into one are fetched at the same hop as frames that are not."""
    entry = untrained(small_features, tmp_path / "m", padded=False, compression=2)
    _, low, high, beyond = lengths(clips)
    cells = [Cell(SIZE, low), Cell(SIZE, beyond), Cell(SIZE, high, 10.0)]
    found = swept(entry, small_features, cells, tmp_path)
    assert_as_alone(found, entry, small_features, cells, tmp_path)


def test_a_sweep_of_which_pieces_were_lost_or_torn_ends_the_same(small_features, tmp_path, clips, monkeypatch):
    monkeypatch.setattr("audiolib.sweep_pass.PIECE_FRAMES", 800)  # Several pieces of the 24 clips.
    entry = untrained(small_features, tmp_path / "m", padded=False)
    cells = [Cell(SIZE, seconds) for seconds in lengths(clips)]
    whole = swept(entry, small_features, cells, tmp_path)
    pieces = sorted(whole.pieces.iterdir())
    assert len(pieces) > 2 * len(cells)
    for number, path in enumerate(pieces[::2]):
        content = path.read_bytes()
        torn = [b"", content[: len(content) // 2], bytes(len(content)), content.replace(b"\0", b"\1", 1000)]
        if number < len(torn):
            path.write_bytes(torn[number])
        else:
            path.unlink()
    again = swept(entry, small_features, cells, tmp_path)
    assert_frame_equal(table(again.rows).drop("ms"), table(whole.rows).drop("ms"), abs_tol=1e-6)


@pytest.mark.parametrize("padded", [True, False])
def test_milliseconds_are_the_mean_over_clips(small_features, tmp_path, clips, monkeypatch, padded):
    """With a clock by which the one batch takes a second."""
    entry = untrained(small_features, tmp_path / "m", padded=padded)
    ticks = iter(range(10**6))
    monkeypatch.setattr("audiolib.sweep_pass.time.perf_counter", lambda: float(next(ticks)))
    found = swept(entry, small_features, [Cell(SIZE, lengths(clips)[-1])], tmp_path)
    assert [row["ms"] for row in found.rows] == pytest.approx([1000 / len(clips)] * 3)


def test_a_batch_that_was_held_up_does_not_count_where_others_have_clips_of_its_length():
    frames, frame_ms = np.array([10, 10, 10, 20, 20]), np.array([1.0, 1.0, 500.0, 2.0, 2.0])
    assert _mean_ms(frames, frame_ms) == pytest.approx((3 * 10 * 1.0 + 2 * 20 * 2.0) / 5)
