"""A corpus of AudioSet's size: 2 million clips with two of 527 labels each, planned, indexed, shuffled and resumed.

The clips are real rows with one small frame each, so that all that grows with their number is there and what grows with
their length is not; the latter is bounded by `train.memory_mib`.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import torch

from audiolib.bench.timing import Result
from audiolib.config.corpus import FeaturesSection
from audiolib.config.training import Augment
from audiolib.corpora.clips import SCHEMA, read_clips, write_clips
from audiolib.dataset import read_split
from audiolib.features import Making
from audiolib.files import write_json
from audiolib.frontend import Frontend
from audiolib.loader import Epoch, EqualSteps, batches
from audiolib.order import epoch_order
from audiolib.progress import track
from audiolib.shards import Row, write_shard
from audiolib.views import View

CLIPS, CLASSES, BANDS, BATCH = 2_000_000, 527, 8, 64
FRONTEND = Frontend(16000, BANDS, 25.0, 10.0)
PLAIN = Augment(freq_mask=0, time_mask=0, mixup=0.5, roll=0, noise=0.0)


def measure(device: torch.device, rounds: int) -> list[Result]:
    """Seconds and peak memory of each part, each in a process of its own."""
    del device, rounds  # Nothing here runs on a GPU, and once is enough: memory does not vary.
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found = [
            *_alone("write the clip list", lambda: _write_list(folder)),
            *_alone("read it and plan all shards", lambda: _plan(folder)),
        ]
        _write_shards(folder)
        found += _alone("index, shuffle, first 50 batches", lambda: _train(folder, 0))
        found += _alone("resume in mid-epoch, balanced, 50 batches", lambda: _train(folder, CLIPS // BATCH // 2))
    return found


def _alone(case: str, work: Callable[[], None]) -> list[Result]:
    """Run in a forked process; its peak holds the interpreter and torch, too."""
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        work()
        os._exit(0)
    _, status, used = os.wait4(child, 0)
    if status:
        raise AssertionError(f"{case} failed")
    taken, peak = time.perf_counter() - started, used.ru_maxrss / 1024
    size = f"{CLIPS:,} clips"
    return [
        Result("scale", "audiolib", size, case, taken, taken, taken, "s"),
        Result("scale", "audiolib", size, f"{case}, peak memory", peak, peak, peak, "MiB"),
    ]


def _write_list(folder: Path) -> None:
    number = pl.int_range(CLIPS, eager=True).alias("number")
    name = pl.format("-a{}", pl.col("number").cast(pl.String).str.zfill(9))
    split = pl.when(pl.col("number") % 40 == 0).then(pl.lit("test")).when(pl.col("number") % 40 == 1)
    table = number.to_frame().select(
        id=name + "_30",
        path=pl.format("/corpora/audioset/unbalanced/{}.wav", name),
        label=pl.concat_list(*(pl.format("class {}", pl.col("number") * k % CLASSES) for k in (1, 7))),
        split=split.then(pl.lit("valid")).otherwise(pl.lit("train")),
        fold=None,
        group=name,
        start=None,
        end=None,
        seconds=10.0,
    )
    write_clips(folder / "clips.parquet", table.cast(SCHEMA))


def _plan(folder: Path) -> None:
    section = FeaturesSection(
        sample_rate=16000,
        mel_bins=BANDS,
        window_ms=25,
        hop_ms=10,
        waveform=False,
        normalisation="own",
        clips_per_shard=512,
        max_rejects=0,
    )
    making = Making(read_clips(folder / "clips.parquet"), section, FRONTEND, folder / "work", folder)
    if sum(len(task.clips) for task in making.tasks()) != CLIPS:
        raise AssertionError("the plan lost a clip")


def _write_shards(folder: Path) -> None:
    infos = []
    for number, rows in track(enumerate(_rows()), "shards", total=-(-CLIPS // 512), unit="shard"):
        info = write_shard(folder / f"part-train-{number:05d}.parquet", "train", rows, {"waveform": False})
        infos.append(asdict(info))
    shared = {"schema": 2, "corpus": "scale", "multi_label": True, "waveform": False, "shards": infos}
    frontend = {"sample_rate": 16000, "mel_bins": BANDS, "window_ms": 25.0, "hop_ms": 10.0}
    write_json(folder / "index.json", {**shared, "classes": list(map(str, range(CLASSES))), "frontend": frontend})
    write_json(folder / "stats.json", {"mean": 0.0, "std": 1.0})


def _rows() -> Iterator[list[Row]]:
    mel = np.zeros((1, BANDS), np.float16)
    for first in range(0, CLIPS, 512):
        numbers = range(first, min(first + 512, CLIPS))
        yield [Row(f"-a{i:09d}_30", (i % CLASSES, 7 * i % CLASSES), mel) for i in numbers]


def _train(folder: Path, start: int) -> None:
    clips = read_split(folder, "train", memory_mib=1)
    order = epoch_order(clips, 1, 0, balanced=start > 0)
    epoch = Epoch(clips, PLAIN, 1, 1, 0, EqualSteps(order.clips, View(1), BATCH), order)
    made = batches(epoch, start)
    for _ in range(50):
        if len(next(made)) != BATCH:
            raise AssertionError("a batch is not whole")
    if clips.window is None:
        raise AssertionError("the clips are held in memory, which is not what is measured")
