"""One pass of a sweep over the clips: what every model says of every clip at every cell.

Clips are read, and turned into log-mel at a foreign hop, once for all cells that share the hop. A clip that a model saw
whole and unpadded is not asked about again at greater lengths: it would see the same.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from audiolib.costs import ClipMemory
from audiolib.dataset import Clips
from audiolib.files import atomic_path
from audiolib.grid import Cell, Size, Trained
from audiolib.loader import eval_batches
from audiolib.models import Classifier
from audiolib.pretrained import Card
from audiolib.views import View

# Frames of log-mel that are held at a time, at the hop of a pass: 128 MiB of 128 bands.
PIECE_FRAMES = 2**18


@dataclass(frozen=True)
class Task:
    """One model at one cell."""

    entry: Trained
    cell: Cell
    view: View
    model: Classifier
    card: Card

    @property
    def size(self) -> Size:
        """Patch size in frames that the model sees."""
        return self.cell.patch

    @property
    def series(self) -> tuple[Trained, Size, int, str]:
        """What is alike, beside the hop, in tasks that differ by nothing but the clip length."""
        return self.entry, self.size, self.view.pool, self.view.pooling


@dataclass(frozen=True)
class Found:
    """What a model said of the clips of a piece: logits (clips, c), the frames it saw of each, milliseconds a frame."""

    view: View
    logits: np.ndarray
    frames: np.ndarray
    frame_ms: np.ndarray


def pieces_of(clips: Clips) -> list[range]:
    """Runs of clips of about `PIECE_FRAMES` frames."""
    pieces, first, held = [], 0, 0
    for place, frames in enumerate(clips.frames.tolist()):
        if held and held + frames > PIECE_FRAMES:
            pieces.append(range(first, place))
            first, held = place, 0
        held += frames
    return [*pieces, range(first, len(clips))]


def ask(
    tasks: list[Task], clips: Clips, pieces: list[range], batch_frames: int, memory: ClipMemory, kept: Path
) -> Iterator[None]:
    """Leave logits and times of every task and piece in a file; yield after each."""
    numbered = sorted(enumerate(tasks), key=lambda item: (item[1].view.hop, item[1].view.frames))
    for hop, group in groupby(numbered, key=lambda item: item[1].view.hop):
        members = list(group)
        for piece in pieces:
            shown: dict[tuple[float, float], list[np.ndarray]] = {}  # By mean and deviation: as each model knows it.
            shorter: dict[tuple[Trained, Size, int, str], Found] = {}
            for number, task in members:
                path = kept / f"{number}-{piece.start}.npz"
                result = _kept(path, task.view)
                if result is None:
                    known = task.card.frontend["mean"], task.card.frontend["std"]
                    if known not in shown:
                        own = replace(clips, mean=known[0], std=known[1])
                        shown[known] = [own.normalised(clips.log_mel(index, hop)) for index in piece]
                    before = shorter.get(task.series)
                    result = _result(task, clips, piece, shown[known], before, batch_frames, memory)
                    with atomic_path(path, synced=False) as temporary, temporary.open("wb") as file:
                        np.savez(file, logits=result.logits, frames=result.frames, frame_ms=result.frame_ms)
                if not task.view.padded:
                    shorter[task.series] = result
                yield


def _kept(path: Path, view: View) -> Found | None:
    """What an earlier sweep left in a file; nothing where there is none, or one that a power cut has torn."""
    try:
        with np.load(path) as told:
            return Found(view, told["logits"], told["frames"], told["frame_ms"])
    except (FileNotFoundError, BadZipFile, EOFError, KeyError, ValueError):
        return None


def _result(
    task: Task,
    clips: Clips,
    piece: range,
    mels: list[np.ndarray],
    before: Found | None,
    batch_frames: int,
    memory: ClipMemory,
) -> Found:
    """What a model says of each clip; of those that it saw whole at a shorter length (`before`), what it said then."""
    cut = [before is None or len(mel) > before.view.fetched for mel in mels]
    asked = [place for place, new in zip(piece, cut, strict=True) if new]
    size, classes = len(piece), len(task.card.classes)
    result = Found(task.view, np.empty((size, classes), np.float32), np.empty(size, np.int64), np.empty(size))
    parts = result.logits, result.frames, result.frame_ms
    if before is not None:
        for part, known in zip(parts, (before.logits, before.frames, before.frame_ms), strict=True):
            part[:] = known
    if asked:
        own = [mel for mel, new in zip(mels, cut, strict=True) if new]
        for part, found in zip(parts, _timed_logits(task, clips, asked, own, batch_frames, memory), strict=True):
            part[cut] = found
    return result


def _timed_logits(
    task: Task, clips: Clips, places: Sequence[int], mels: list[np.ndarray], batch_frames: int, memory: ClipMemory
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (clips, c), the frames seen of each clip, and milliseconds per frame of its batch, without loading."""
    order = np.argsort([len(mel) for mel in mels], kind="stable")  # Attention takes clips of equal length in one call.
    sorted_places, sorted_mels = [places[n] for n in order], [mels[n] for n in order]
    found, frames, times = [], [], []
    memory.mib(task.model, task.view.seen, task.size)  # Kernels are resized, and workspaces taken, before time counts.
    with torch.inference_mode():
        for batch in eval_batches(clips, task.view, batch_frames, sorted_places, sorted_mels):
            batch = batch.to(memory.device)  # noqa: PLW2901
            started = time.perf_counter()
            found.append(task.model(batch, task.size).float().cpu())  # Waits for the device.
            taken = (time.perf_counter() - started) * 1000 / sum(batch.lengths)
            frames += batch.lengths
            times += [taken] * len(batch)
    back = np.argsort(order)
    return torch.cat(found).numpy()[back], np.array(frames)[back], np.array(times)[back]
