"""The feature stage: every clip to log-mel, in shards, over the cores or a cluster; an interrupted run continues."""

import hashlib
import math
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import torch

from audiolib.cluster import cluster_map
from audiolib.config.corpus import FeaturesSection
from audiolib.corpora.clips import SPLITS, Clip, as_clips, class_names, read_clips
from audiolib.corpora.normalisation import stated_constants
from audiolib.errors import AudiolibError
from audiolib.files import (
    atomic_path,
    code_digest,
    digest,
    lock,
    read_json,
    read_sealed,
    write_json,
    write_sealed,
)
from audiolib.frontend import BadClip, Frontend, decode, log_mel, to_int16
from audiolib.progress import say, track
from audiolib.shards import SCHEMA_VERSION, Row, ShardInfo, finished_shard, write_shard

# Starting a worker costs seconds (it imports torch); below this many clips for each, one process is faster.
_CLIPS_PER_WORKER = 2000
# How often processes may die before a run gives up.
_POOLS = 3


@dataclass(frozen=True)
class Task:
    """One shard to make: all that a worker needs to know."""

    path: Path
    split: str
    clips: tuple[Clip, ...]
    audio: Path
    classes: tuple[str, ...]
    frontend: Frontend
    waveform: bool


@dataclass(frozen=True)
class Reject:
    """A clip that could not be used."""

    id: str
    path: str
    reason: str


Made = tuple[ShardInfo, list[Reject]]


def extract(download: Path, section: FeaturesSection, out: Path, scratch: Path) -> None:
    """Turn the clips of `download` into shards, `index.json`, `stats.json` and `rejects.parquet` in `out`.

    Raises:
        AudiolibError: more clips are unusable than `max_rejects` allows; all of them are listed first.
    """
    source = read_sealed(download / "source.json")
    clips = read_clips(download / "clips.parquet", source["list"])
    chosen = source["frontend"] or section.model_dump(include={"sample_rate", "window_ms", "hop_ms"})
    frontend = Frontend(mel_bins=section.mel_bins, **chosen)
    code = code_digest(Path(__file__).parent, ("features.py", "frontend.py", "shards.py"))
    key = digest(
        {
            "source": source,
            "section": section.model_dump(),
            "code": code,
        }
    )
    making = Making(clips, section, frontend, (scratch / "features" / key).resolve(), (download / "audio").resolve())
    stats = None if section.normalisation == "own" else _stated(source["corpus"], section.normalisation)
    with lock(scratch / f"features-{key}.lock"):
        shards = making.run(out)
    if stats is None:
        stats = _statistics([shard for shard in shards if shard.split == "train"], section.mel_bins)
    write_sealed(out / "stats.json", stats)
    write_sealed(
        out / "index.json",
        {
            "schema": SCHEMA_VERSION,
            "corpus": source["corpus"],
            "multi_label": source["multi_label"],
            "classes": list(making.classes),
            "frontend": asdict(frontend),
            "waveform": section.waveform,
            "shards": [asdict(shard) for shard in shards],
        },
    )


class Making:
    """All shards of a corpus: which clip goes into which is fixed by the list alone, classes mixed, splits apart.

    Args:
        clips: the clip table; one of millions of rows is never turned into objects as a whole.
        section: how many clips a shard holds, and what is kept of them.
        frontend: the settings of the log-mel.
        work: where shards are made.
        audio: the corpus folder, that relative paths count from.
    """

    def __init__(
        self, clips: pl.DataFrame, section: FeaturesSection, frontend: Frontend, work: Path, audio: Path
    ) -> None:
        self.section, self.frontend, self.work, self.audio = section, frontend, work, audio
        self.classes = tuple(class_names(clips))
        # In an order that no class or recording has a say in, the same on every machine.
        mixed = [hashlib.sha256(name.encode()).digest()[:16] for name in clips["id"]]
        self.splits = {
            split: part.drop("mixed")
            for split, part in clips.with_columns(mixed=pl.Series(mixed, dtype=pl.Binary))
            .sort("mixed")
            .partition_by("split", as_dict=True, maintain_order=True, include_key=True)
            .items()
            for split in split
        }
        size = section.clips_per_shard
        self.places = [
            (split, number) for split in SPLITS for number in range(math.ceil(len(self.splits[split]) / size))
        ]

    def __len__(self) -> int:
        return len(self.places)

    def tasks(self) -> Iterator[Task]:
        """The shards to make, one by one."""
        size = self.section.clips_per_shard
        for split, number in self.places:
            clips = tuple(as_clips(self.splits[split].slice(number * size, size)))
            path = self.work / f"part-{split}-{number:05d}.parquet"
            yield Task(path, split, clips, self.audio, self.classes, self.frontend, self.section.waveform)

    def run(self, out: Path) -> list[ShardInfo]:
        """Make all shards in the scratch folder, judge the rejects, and only then move everything to `out`."""
        shards, rejects = [], []
        clips = sum(map(len, self.splits.values()))
        for info, bad in track(_fan_out(self.tasks(), len(self), clips), "log-mel", total=len(self), unit="shard"):
            shards.append(info)
            rejects.extend(bad)
        _judge(rejects, self.section.max_rejects, shards)
        out.mkdir(parents=True, exist_ok=True)
        for shard in shards:
            shutil.move(self.work / shard.file, out / shard.file)
        shutil.rmtree(self.work)
        with atomic_path(out / "rejects.parquet") as temporary:
            columns = dict.fromkeys(("id", "path", "reason"), pl.String)
            pl.DataFrame([asdict(reject) for reject in rejects], schema=columns).write_parquet(temporary)
        return shards


def _fan_out(tasks: Iterable[Task], count: int, clips: int) -> Iterator[Made]:
    """Results in the order of the tasks, which are made as they are needed: here, on all cores, or on a cluster."""
    if os.environ.get("RAY_ADDRESS"):
        yield from cluster_map(make_shard, tasks)
        return
    workers = min(os.cpu_count() or 1, count, 1 + clips // _CLIPS_PER_WORKER)
    if workers == 1:
        yield from map(make_shard, tasks)
        return
    yield from _on_cores(iter(tasks), workers)


def _on_cores(tasks: Iterator[Task], workers: int) -> Iterator[Made]:
    """As `_fan_out`, in processes of this machine. One that dies takes the pool along: what was under way is done anew,
    and finished shards are found.
    """
    context, unfinished = multiprocessing.get_context("spawn"), deque[Task]()
    for _ in range(_POOLS):
        with ProcessPoolExecutor(workers, context) as pool:
            try:
                made = deque(pool.submit(make_shard, task) for task in unfinished)
                while True:
                    for task in islice(tasks, 4 * workers - len(unfinished)):
                        unfinished.append(task)
                        made.append(pool.submit(make_shard, task))
                    if not made:
                        return
                    found = made.popleft().result()
                    unfinished.popleft()
                    yield found
            except BrokenProcessPool:
                say(f"features: a process died at {unfinished[0].path.name} or the next; doing them again")
    raise AudiolibError(
        f"a process that makes shards died {_POOLS} times, the last time at {unfinished[0].path.name} or the next; is "
        "there enough memory? Run again to continue"
    )


def make_shard(task: Task) -> Made:
    """Make one shard, or find it finished. A note beside it says which clips it lacks."""
    # Processes share the cores; and the last bits of a log-mel depend on the number of threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _made(task)
    finally:
        torch.set_num_threads(threads)


def _made(task: Task) -> Made:
    header = {
        "frontend": asdict(task.frontend),
        "waveform": task.waveform,
        "clips_digest": digest([clip.id for clip in task.clips]),
        "classes_digest": digest(task.classes),
    }
    notes = task.path.with_suffix(".rejects.json")
    # A shard with rejected clips is made again: the user may have mended them.
    done = finished_shard(task.path, header) if notes.exists() and read_json(notes) == [] else None
    if done is not None:
        return done, []
    number = {name: place for place, name in enumerate(task.classes)}
    rows, rejects = [], []
    for clip in task.clips:
        try:
            samples = decode(task.audio / clip.path, task.frontend.sample_rate, clip.start, clip.end)
            wave = to_int16(samples) if task.waveform else None
            label = tuple(number[name] for name in clip.label)
            rows.append(Row(clip.id, label, log_mel(samples, task.frontend), wave))
        except BadClip as error:
            rejects.append(Reject(clip.id, str(task.audio / clip.path), str(error)))
    write_json(notes, [asdict(reject) for reject in rejects])
    return write_shard(task.path, task.split, rows, header), rejects


def _judge(rejects: list[Reject], limit: int, shards: list[ShardInfo]) -> None:
    for reject in rejects:
        say(f"rejected {reject.path}: {reject.reason}")
    if len(rejects) > limit:
        first = rejects[0]
        raise AudiolibError(
            f"{len(rejects)} clips cannot be used and features.max_rejects is {limit}; the first is {first.path}: "
            f"{first.reason}; mend them, or remove them and run `dvc repro -f download`, or raise the limit"
        )
    for split in SPLITS:
        if not sum(shard.clips for shard in shards if shard.split == split):
            raise AudiolibError(f"the {split} split has no usable clip: all of them were rejected")


def _statistics(trained: list[ShardInfo], bands: int) -> dict[str, Any]:
    """Mean and standard deviation of all log-mel values of the training split."""
    frames = sum(shard.frames for shard in trained)
    mean = sum(shard.total for shard in trained) / (frames * bands)
    variance = sum(shard.squares for shard in trained) / (frames * bands) - mean**2
    return {"mean": mean, "std": math.sqrt(max(variance, 1e-12)), "origin": "train split", "frames": frames}


def _stated(corpus: str, name: str) -> dict[str, Any]:
    mean, std = stated_constants(corpus, name)
    return {"mean": mean, "std": std, "origin": name}
