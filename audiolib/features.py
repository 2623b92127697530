"""The feature stage: every clip to log-mel, in shards, over the cores; an interrupted run continues shard by shard."""

import hashlib
import math
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
import torch

from audiolib.config.corpus import FeaturesSection
from audiolib.corpora.clips import SPLITS, Clip, read_clips
from audiolib.errors import AudiolibError
from audiolib.files import atomic_path, code_digest, digest, lock, read_json, sha256_file, write_json
from audiolib.frontend import BadClip, Frontend, decode, log_mel, to_int16
from audiolib.progress import say, track
from audiolib.shards import SCHEMA_VERSION, Row, ShardInfo, finished_shard, index_entry, write_shard

# Starting a worker costs seconds (it imports torch); below this many clips for each, one process is faster.
_CLIPS_PER_WORKER = 2000


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


def extract(download: Path, section: FeaturesSection, out: Path, scratch: Path) -> None:
    """Turn the clips of `download` into shards, `index.json`, `stats.json` and `rejects.parquet` in `out`.

    Raises:
        AudiolibError: more clips are unusable than `max_rejects` allows; all of them are listed first.
    """
    clips = read_clips(download / "clips.parquet")
    source = read_json(download / "source.json")
    frontend = Frontend(section.sample_rate, section.mel_bins, section.window_ms, section.hop_ms)
    classes = tuple(sorted({name for clip in clips for name in clip.label}))
    code = code_digest(Path(__file__).parent, ("features.py", "frontend.py", "shards.py"))
    key = digest(
        {
            "clips": sha256_file(download / "clips.parquet"),
            "source": source,
            "section": section.model_dump(),
            "code": code,
        }
    )
    work = scratch / "features" / key
    tasks = plan(clips, classes, frontend, section, work, download / "audio")
    with lock(scratch / f"features-{key}.lock"):
        shards = _make_shards(tasks, len(clips), section, out)
    write_json(
        out / "index.json",
        {
            "schema": SCHEMA_VERSION,
            "corpus": source["corpus"],
            "multi_label": source["multi_label"],
            "classes": list(classes),
            "frontend": asdict(frontend),
            "waveform": section.waveform,
            "shards": [index_entry(shard) for shard in shards],
        },
    )


def _make_shards(tasks: list[Task], clips: int, section: FeaturesSection, out: Path) -> list[ShardInfo]:
    """Make all shards in the scratch folder, judge the rejects, and only then move everything to `out`."""
    shards, rejects = [], []
    for info, bad in track(_run(tasks, clips), "log-mel", total=len(tasks), unit="shard"):
        shards.append(info)
        rejects.extend(bad)
    _judge(rejects, section.max_rejects, shards)
    out.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        shutil.move(task.path, out / task.path.name)
    shutil.rmtree(tasks[0].path.parent)
    _write_stats(out / "stats.json", shards, section.mel_bins)
    with atomic_path(out / "rejects.parquet") as temporary:
        columns = dict.fromkeys(("id", "path", "reason"), pl.String)
        pl.DataFrame([asdict(reject) for reject in rejects], schema=columns).write_parquet(temporary)
    return shards


def plan(
    clips: list[Clip], classes: tuple[str, ...], frontend: Frontend, section: FeaturesSection, work: Path, audio: Path
) -> list[Task]:
    """Fix which clip goes into which shard, from the list alone: classes mixed by a hash of the id, splits apart."""
    tasks, size = [], section.clips_per_shard
    for split in SPLITS:
        members = [clip for clip in clips if clip.split == split]
        members.sort(key=lambda clip: hashlib.sha256(clip.id.encode()).digest())
        for number in range(math.ceil(len(members) / size)):
            chosen = tuple(members[number * size : (number + 1) * size])
            path = work / f"part-{split}-{number:05d}.parquet"
            tasks.append(Task(path, split, chosen, audio, classes, frontend, section.waveform))
    return tasks


def _run(tasks: list[Task], clips: int) -> Iterator[tuple[ShardInfo, list[Reject]]]:
    workers = min(os.cpu_count() or 1, len(tasks), 1 + clips // _CLIPS_PER_WORKER)
    if workers == 1:
        yield from map(make_shard, tasks)
        return
    # One process per core; more threads in each would only wait for each other.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(make_shard, tasks)


def make_shard(task: Task) -> tuple[ShardInfo, list[Reject]]:
    """Make one shard, or find it finished. A note beside it says which clips it lacks."""
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
            f"{first.reason}; mend or remove them, or raise the limit"
        )
    for split in SPLITS:
        if not sum(shard.clips for shard in shards if shard.split == split):
            raise AudiolibError(f"the {split} split has no usable clip: all of them were rejected")


def _write_stats(path: Path, shards: list[ShardInfo], bands: int) -> None:
    """Mean and standard deviation of all log-mel values of the training split."""
    trained = [shard for shard in shards if shard.split == "train"]
    frames = sum(shard.frames for shard in trained)
    mean = sum(shard.total for shard in trained) / (frames * bands)
    variance = sum(shard.squares for shard in trained) / (frames * bands) - mean**2
    write_json(path, {"mean": mean, "std": math.sqrt(max(variance, 1e-12)), "split": "train", "frames": frames})
