"""Shards: what is written is read, equal input gives equal bytes, and no flipped byte passes."""

import resource
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from audiolib.errors import AudiolibError
from audiolib.files import read_sealed, write_json, write_sealed
from audiolib.shards import SCHEMA_VERSION, Row, ShardFolder, _lists, finished_shard, write_shard

HEADER = {"frontend": {"mel_bins": 8, "hop_ms": 10.0}, "waveform": True}


def rows(count: int = 40, seed: int = 0) -> list[Row]:
    random = np.random.default_rng(seed)
    return [
        Row(
            f"clip {i}",
            tuple(range(i % 3)) or (0,),
            random.normal(-5, 4, (int(random.integers(1, 90)), 8)).astype(np.float16),
            random.integers(-(2**15), 2**15, int(random.integers(1, 900))).astype(np.int16),
        )
        for i in range(count)
    ]


@pytest.fixture
def folder(tmp_path) -> Path:
    info = write_shard(tmp_path / "part-train-00000.parquet", "train", rows(), HEADER)
    write_json(tmp_path / "stats.json", {"mean": 0.0, "std": 1.0})
    write_json(
        tmp_path / "index.json",
        {"schema": SCHEMA_VERSION, "classes": ["a", "b"], "multi_label": True, **HEADER, "shards": [asdict(info)]},
    )
    return tmp_path


def test_round_trip(folder):
    for wrote, read in zip(rows(), ShardFolder(folder).rows("train", waveform=True), strict=True):
        assert (wrote.id, wrote.label) == (read.id, read.label)
        np.testing.assert_array_equal(wrote.log_mel, read.log_mel)
        np.testing.assert_array_equal(wrote.wave, read.wave)
    assert all(read.wave is None for read in ShardFolder(folder).rows("train"))
    assert list(ShardFolder(folder).rows("test")) == []


def test_equal_rows_give_equal_bytes(tmp_path):
    one = write_shard(tmp_path / "a.parquet", "train", rows(), HEADER)
    two = write_shard(tmp_path / "b.parquet", "train", rows(), HEADER)
    assert one.sha256 == two.sha256
    assert write_shard(tmp_path / "c.parquet", "train", rows(seed=1), HEADER).sha256 != one.sha256


def test_sums_are_those_of_the_stored_values(tmp_path):
    info = write_shard(tmp_path / "a.parquet", "train", rows(), HEADER)
    values = np.concatenate([row.log_mel.astype(np.float64).ravel() for row in rows()])
    assert info.total == pytest.approx(values.sum()) and info.squares == pytest.approx((values**2).sum())
    assert info.frames == values.size / 8


def test_every_flipped_byte_is_detected_and_the_shard_named(folder):
    path = folder / "part-train-00000.parquet"
    good = path.read_bytes()
    for place in np.random.default_rng(0).choice(len(good), 60, replace=False):
        bad = bytearray(good)
        bad[place] ^= 1 << int(place % 8)
        path.write_bytes(bad)
        with pytest.raises(AudiolibError, match=r"part-train-00000\.parquet is damaged"):
            list(ShardFolder(folder).rows("train"))


def test_page_checksums_catch_what_the_index_cannot_know(folder):
    """An unfinished run has no index yet: its shards are judged by their own checksums."""
    path = folder / "part-train-00000.parquet"
    assert finished_shard(path, HEADER) is not None
    bad = bytearray(path.read_bytes())
    bad[len(bad) // 2] ^= 1
    path.write_bytes(bad)
    assert finished_shard(path, HEADER) is None


def test_an_unfinished_shard_of_other_settings_is_not_taken(folder):
    path = folder / "part-train-00000.parquet"
    assert finished_shard(path, {"frontend": {"mel_bins": 8, "hop_ms": 20.0}}) is None
    assert finished_shard(folder / "absent.parquet", HEADER) is None


def test_missing_shard_index_or_newer_schema_is_one_line(folder, tmp_path):
    (folder / "part-train-00000.parquet").rename(folder / "elsewhere")
    with pytest.raises(AudiolibError, match="is missing; delete data/features and run"):
        list(ShardFolder(folder).rows("train"))
    index = read_sealed(folder / "index.json")
    write_sealed(folder / "index.json", {**index, "schema": 9})
    with pytest.raises(AudiolibError, match="shards of schema 9, this version reads 2"):
        ShardFolder(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(AudiolibError, match=r"index\.json is damaged"):
        ShardFolder(folder)
    shutil.rmtree(folder)
    with pytest.raises(AudiolibError, match="is missing; run `dvc repro` to make it"):
        ShardFolder(folder)


def test_sound_that_was_not_kept_is_asked_for_in_one_line(tmp_path):
    header = {**HEADER, "waveform": False}
    info = write_shard(tmp_path / "part-train-00000.parquet", "train", rows(), header)
    write_json(tmp_path / "stats.json", {"mean": 0.0, "std": 1.0})
    index = {"schema": SCHEMA_VERSION, "classes": ["a"], "multi_label": True, **header, "shards": [asdict(info)]}
    write_json(tmp_path / "index.json", index)
    shards = ShardFolder(tmp_path)
    assert len(list(shards.rows("train"))) == 40
    with pytest.raises(AudiolibError, match="set features\\.waveform to true"):
        next(shards.rows("train", waveform=True))


@pytest.fixture
def many(tmp_path) -> Path:
    """Six shards of 20 clips."""
    infos = [write_shard(tmp_path / f"part-train-{n:05d}.parquet", "train", rows(20, seed=n), HEADER) for n in range(6)]
    write_json(tmp_path / "stats.json", {"mean": 0.0, "std": 1.0})
    shards = {"shards": [asdict(info) for info in infos]}
    write_json(
        tmp_path / "index.json", {"schema": SCHEMA_VERSION, "classes": ["a"], "multi_label": True, **HEADER, **shards}
    )
    return tmp_path


def _opened() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_of_many_shards_few_stay_open(many, monkeypatch):
    monkeypatch.setattr("audiolib.shards._MOST_OPEN", 2)
    folder, before = ShardFolder(many), _opened()
    wanted = {n: [row.log_mel for row in rows(20, seed=n)] for n in range(6)}
    for n in (0, 1, 2, 0, 3, 4, 5, 0):
        for mel, own in zip(folder.group(folder.shards[n], 0, waveform=False)[0], wanted[n], strict=False):
            np.testing.assert_array_equal(mel, own)
        assert _opened() <= before + 2
    assert list(folder._open) == ["part-train-00005.parquet", "part-train-00000.parquet"], "the last that were read"


def test_what_the_system_refuses_is_no_damage(many):
    folder, (soft, hard) = ShardFolder(many), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(AudiolibError, match=r"cannot read shard .*: Too many open files"):
            folder.group(folder.shards[0], 0, waveform=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(folder.group(folder.shards[0], 0, waveform=False)[0]) == 16


def test_a_shard_of_clips_too_long_for_it_is_one_line(tmp_path):
    long = np.broadcast_to(np.zeros(1, np.float16), 2**30)
    with pytest.raises(AudiolibError, match=r"3 clips are too long for one shard; set features\.clips_per_shard lower"):
        _lists([long] * 3, np.float16)
