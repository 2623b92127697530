"""Clips on disk are the clips in memory; an epoch over them is exact, local, and within its memory."""

from collections import Counter
from dataclasses import asdict
from itertools import chain

import numpy as np
import pytest

from audiolib import loader, shards
from audiolib.dataset import OnDisk, read_split, read_training
from audiolib.errors import AudiolibError
from audiolib.files import write_json
from audiolib.loader import Epoch, EqualSteps, batches
from audiolib.order import clip_weights, epoch_order
from audiolib.shards import ROWS_PER_GROUP, Row, ShardFolder, write_shard
from audiolib.views import View
from tests.recipes import augment

CLASSES, CLIPS = 7, 600
VIEW = View(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """600 clips of 15 to 60 frames in six shards, and a few to validate on.

    Class k has about 2^-k of the first one's clips, some have two.
    """
    place = tmp_path_factory.mktemp("many")
    random = np.random.default_rng(0)
    frontend = {"sample_rate": 16000, "mel_bins": 64, "window_ms": 25.0, "hop_ms": 10.0}
    infos = []
    for number in range(6):
        rows = []
        for i in range(number * 100, number * 100 + 100):
            label = {min(CLASSES - 1, int(random.geometric(0.5)) - 1), *([6] if i % 90 == 0 else [])}
            frames = int(random.integers(15, 61))
            wave = random.integers(-999, 999, 400 + 160 * (frames - 1)).astype(np.int16)
            rows.append(Row(f"clip{i}", tuple(sorted(label)), random.standard_normal((frames, 64)), wave))
        infos.append(write_shard(place / f"part-train-{number:05d}.parquet", "train", rows, {"waveform": True}))
    infos.append(write_shard(place / "part-valid-00000.parquet", "valid", rows[:9], {"waveform": True}))
    index = {"schema": 2, "corpus": "x", "multi_label": True, "classes": [f"c{k}" for k in range(CLASSES)]}
    shards = {"frontend": frontend, "waveform": True, "shards": [asdict(info) for info in infos]}
    write_json(place / "index.json", index | shards)
    write_json(place / "stats.json", {"mean": 0.0, "std": 1.0})
    return place


@pytest.fixture
def disk(folder):
    clips = read_split(folder, "train", waveform=True, memory_mib=1)
    assert isinstance(clips.held, OnDisk) and clips.window is not None
    return clips


def epoch_of(clips, number=0, size=16, world=1, rank=0, *, balanced=False) -> Epoch:
    order = epoch_order(clips, 3, number, balanced)
    steps = EqualSteps(order.clips, VIEW, size, world)
    return Epoch(clips, augment(), VIEW.frames, 3, number, steps, order, rank)


def test_clips_on_disk_are_those_in_memory(folder, disk):
    memory = read_split(folder, "train", waveform=True)
    assert memory.window is None and disk.ids == memory.ids and len(disk) == CLIPS
    np.testing.assert_array_equal(disk.target, memory.target)
    for index in np.random.default_rng(0).permutation(CLIPS).tolist():
        np.testing.assert_array_equal(disk.log_mel(index), memory.log_mel(index))
        np.testing.assert_array_equal(disk.held.at_hop(index, 1.5, np.copy), memory.held.waves[index])
    np.testing.assert_array_equal(disk.log_mel(5, 1.5), memory.log_mel(5, 1.5))


def test_log_mel_at_other_hops_is_kept_as_far_as_memory_allows(folder):
    once, again = (read_split(folder, "train", waveform=True) for _ in range(2))
    fresh = [once.log_mel(index, 1.5) for index in range(20)]
    again.held.spare = sum(mel.nbytes for mel in fresh[:10])
    for _ in range(2):
        for index, mel in enumerate(fresh):
            np.testing.assert_array_equal(again.log_mel(index, 1.5), mel)
    assert list(again.held.others) == [(index, 1.5) for index in range(10)] and not once.held.others
    assert again.log_mel(3, 1.5) is again.log_mel(3, 1.5) and again.held.spare == 0
    with pytest.raises(ValueError, match="read-only"):
        again.log_mel(3, 1.5)[0] = 0.0


def test_a_training_takes_no_more_memory_than_it_may(folder):
    """What both splits leave keeps log-mel at other hops; a split that is too large leaves nothing."""
    train, valid = read_training(folder, True, 2048)
    taken = sum(array.nbytes for split in (train, valid) for array in [*split.held.mels, *split.held.waves])
    assert train.held.spare == 2**31 - taken and valid.held.spare == 0 and len(valid) == 9
    train, valid = read_training(folder, True, 1)
    assert isinstance(train.held, OnDisk) and train.held.limit == 2**20 and valid.held.spare == 0


@pytest.mark.parametrize("processes", [0, 1])
def test_a_loader_process_keeps_nothing_for_an_epoch_that_ends_with_it(folder, monkeypatch, processes):
    clips, _ = read_training(folder, True, 2048)
    monkeypatch.setattr(loader, "shown", lambda *_: clips.held.spare)  # Of the process that makes a batch.
    assert clips.held.spare > 2**30
    assert set(batches(epoch_of(clips), processes=processes)) == ({0} if processes else {clips.held.spare})


def test_an_epoch_reads_every_group_once_and_holds_no_more_than_it_may(folder, disk, monkeypatch):
    read, held = Counter(), []
    real = ShardFolder.group

    def counted(self, shard, number, waveform):
        read[shard.file, number] += 1
        held.append(disk.held.bytes)
        return real(self, shard, number, waveform)

    monkeypatch.setattr(ShardFolder, "group", counted)
    shown = list(batches(epoch_of(disk)))  # Mixup is on: partners come from the same window.
    assert sum(map(len, shown)) == 592
    assert set(read.values()) == {1} and len(read) == 6 * -(-100 // ROWS_PER_GROUP)
    assert max(held) <= 2**20 and disk.window * 64 * 2 < 2**20


def test_a_shard_is_hashed_once_for_all_epochs_and_processes(disk, tmp_path, monkeypatch):
    real, log = shards.sha256_file, tmp_path / "hashed"

    def noted(path):
        with log.open("a") as hashed:
            hashed.write(f"{path.name}\n")
        return real(path)

    monkeypatch.setattr(shards, "sha256_file", noted)
    for number in range(3):
        assert sum(map(len, batches(epoch_of(disk, number), processes=1))) == 592
    assert len(log.read_text().split()) == len(set(log.read_text().split())) == 6


def test_an_epoch_over_windows_is_a_permutation_that_seed_and_number_decide(disk):
    one, again, other = (epoch_order(disk, 3, number).clips for number in (0, 0, 1))
    assert sorted(one.tolist()) == list(range(CLIPS))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    order = epoch_order(disk, 3, 0)
    assert sum(disk.frames[members].sum() for members in order.members) == disk.frames.sum()
    largest = max(disk.frames[members].sum() for members in order.members)
    assert len(order.members) > 5 and largest <= disk.window + disk.frames.max() * ROWS_PER_GROUP


@pytest.mark.parametrize("memory_mib", [1, 2048])
@pytest.mark.parametrize("balanced", [False, True])
def test_any_number_of_workers_and_processes_from_any_step_see_the_same_epoch(folder, memory_mib, balanced):
    clips = read_split(folder, "train", waveform=True, memory_mib=memory_mib)
    whole = epoch_of(clips, balanced=balanced)
    wanted = [sorted(index for index, _ in chain(*step)) for step in whole.steps]
    for world in (1, 2, 4, 8):
        parts = [epoch_of(clips, world=world, rank=rank, balanced=balanced) for rank in range(world)]
        assert [sorted(i for i, _ in chain(*step)) for step in parts[0].steps] == wanted
        for part in parts:
            assert [len(step[part.rank]) for step in part.steps] == [16 // world] * len(wanted)
    last = len(whole) - 1
    full = [batch.mel.numpy() for batch in batches(whole)]
    for start in (0, 1, 7, last):
        for processes in (0, 2):
            rest = [batch.mel.numpy() for batch in batches(whole, start, processes)]
            assert len(rest) == len(full) - start
            assert all(np.array_equal(one, two) for one, two in zip(rest, full[start:], strict=True))


@pytest.mark.parametrize("memory_mib", [1, 2048])
def test_balanced_sampling_draws_classes_about_equally(folder, memory_mib):
    clips = read_split(folder, "train", memory_mib=memory_mib)
    counts = clips.target.sum(0)
    expected = [sum(1000 / (counts[k] + 0.01) for k in np.flatnonzero(row)) for row in clips.target]
    np.testing.assert_allclose(clip_weights(clips), expected)
    drawn = np.concatenate([epoch_order(clips, 3, number, balanced=True).clips for number in range(20)])
    assert len(drawn) == 20 * CLIPS
    seen = clips.targets(drawn).sum(0)
    assert counts.max() / counts.min() > 20 and seen.max() / seen.min() < 2


def test_a_damaged_shard_is_found_when_its_first_group_is_read(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    clips = read_split(tmp_path, "train", memory_mib=1)
    broken = tmp_path / "part-train-00002.parquet"
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(bytes(content))
    clips.log_mel(0)
    with pytest.raises(AudiolibError, match=r"part-train-00002\.parquet is damaged"):
        clips.log_mel(250)
