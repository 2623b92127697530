"""The sweep: every patch size x clip length x hop of a grid, for every model, on the same clips.

Clips are read, and turned into log-mel at a foreign hop, once for all cells that share the hop. What a cell has found
is kept piece by piece until its outcome is written: the same sweep again, after a crash, goes on where it was.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from audiolib.batches import pack
from audiolib.costs import clip_memory, mean_cost
from audiolib.dataset import Clips, read_split
from audiolib.errors import AudiolibError
from audiolib.files import atomic_path, code_digest, digest, scratch_folder, sha256_file
from audiolib.grid import Cell, Grid, Size, Trained, view_of
from audiolib.intervals import d_prime_interval, map_interval, wilson_interval
from audiolib.loader import eval_batches
from audiolib.metrics import accuracy, clip_scores, d_prime, mean_average_precision
from audiolib.models import Classifier
from audiolib.predict import pick_device
from audiolib.pretrained import Card, load, load_card
from audiolib.progress import track
from audiolib.shards import ShardFolder
from audiolib.views import View

# Frames of log-mel that are held at a time, at the hop of a pass: 128 MiB of 128 bands.
PIECE_FRAMES = 2**18
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Outcome:
    """What a sweep has found.

    Attributes:
        rows: one metric of one cell each.
        predictions: what each model says of each clip at its own patch size, length and hop: stage, id, actual,
            predicted, and the probabilities of both; multi-label corpora have none.
        scores: a table for each cell of how well each clip was done (`metrics.clip_scores`), see `results.SCORES`.
        pieces: folder of what the cells found, for whoever has written the outcome down to remove.
    """

    rows: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    scores: list[pl.DataFrame]
    pieces: Path

    def written(self) -> None:
        """The outcome is safe elsewhere: its pieces are not needed any more."""
        shutil.rmtree(self.pieces, ignore_errors=True)


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


def sweep(
    trained: list[Trained],
    features: Path,
    grid: Grid,
    common: dict[str, Any],
    device: str = "auto",
    scratch: Path | None = None,
    kernels: dict[str, str] | None = None,
) -> Outcome:
    """Measure every model at every cell of a grid.

    Args:
        trained: the models.
        features: features folder.
        grid: clips are cut to each of its lengths, and padded for a model that was trained on padded ones.
        common: columns that all rows share.
        device: where to compute.
        scratch: where unfinished sweeps are kept; null = the project's folder for that.
        kernels: `attention` and `scan`, see `pretrained.load`. What trained in bfloat16 by `varlen`, which knows no
            float32, is measured by another.

    Raises:
        AudiolibError: a model was trained on other classes, or on log-mel of another kind.
    """
    where = pick_device(device)
    shards = ShardFolder(features)
    for entry in trained:
        _check(entry.folder, shards)
    kernels = {name: "auto" if chosen == "varlen" else chosen for name, chosen in (kernels or {}).items()}
    tasks = _tasks(trained, grid, where, kernels)
    clips = read_split(features, grid.split, any(task.view.needs_sound for task in tasks))
    kept = (scratch or scratch_folder(ROOT)) / "sweeps" / _fingerprint(trained, features, grid, where)
    kept.mkdir(parents=True, exist_ok=True)
    pieces = [range(first, last) for first, last in _pieces(clips)]
    work = _work(tasks, clips, pieces, grid.batch_frames, where, kept)
    for _ in track(work, "evaluate", total=len(tasks) * len(pieces), unit="cell"):
        pass
    found = Outcome([], [], [], kept)
    for number, task in enumerate(tasks):
        parts = [np.load(kept / f"{number}-{piece.start}.npz") for piece in pieces]
        logits = np.concatenate([part["logits"] for part in parts])
        ms = float(np.median(np.concatenate([part["ms"] for part in parts])))
        _report(task, clips, grid, {**common, "ms": ms}, logits, where, found)
    return found


def _check(model: Path, shards: ShardFolder) -> None:
    """Refuse clips that a model cannot be asked about."""
    card = load_card(model)
    if card.classes != shards.classes:
        raise AudiolibError(f"{model} was trained on other classes than {shards.folder} has; train it again")
    own = {key: card.frontend.get(key, value) for key, value in shards.frontend.items()}
    if own != shards.frontend:
        raise AudiolibError(f"{model} was trained on log-mel of {own}, not {shards.frontend}; train it again")


def _tasks(trained: list[Trained], grid: Grid, device: torch.device, kernels: dict[str, str]) -> list[Task]:
    """Every model at every cell, in the order of rows; a cell that asks for the hop that a model has anyway is one."""
    asked: dict[tuple[Trained, Size, float, float], Task] = {}
    for entry in trained:
        model, card = load(entry.folder, str(device), **kernels), load_card(entry.folder)
        for cell in grid.cells:
            view = view_of(card, cell)
            asked.setdefault((entry, cell.patch, cell.seconds, view.stretch), Task(entry, cell, view, model, card))
    return list(asked.values())


def _fingerprint(trained: list[Trained], features: Path, grid: Grid, device: torch.device) -> str:
    """All that decides what a sweep finds."""
    weights = [(entry.name, entry.stage, sha256_file(entry.folder / "config.json")) for entry in trained]
    code = code_digest(Path(__file__).parent, ("*.py", "models/*.py", "kernels/*/*.py"))
    return digest([weights, sha256_file(features / "index.json"), asdict(grid), str(device), code])


def _pieces(clips: Clips) -> Iterator[tuple[int, int]]:
    """Runs of clips of about `PIECE_FRAMES` frames."""
    first, held = 0, 0
    for place, frames in enumerate(clips.frames.tolist()):
        if held and held + frames > PIECE_FRAMES:
            yield first, place
            first, held = place, 0
        held += frames
    yield first, len(clips)


def _work(
    tasks: list[Task], clips: Clips, pieces: list[range], batch_frames: int, device: torch.device, kept: Path
) -> Iterator[None]:
    """Leave logits and times of every task and piece in a file; yield after each."""
    numbered = sorted(enumerate(tasks), key=lambda item: item[1].view.hop)
    for hop, group in groupby(numbered, key=lambda item: item[1].view.hop):
        members = list(group)
        for piece in pieces:
            shown: dict[tuple[float, float], list[np.ndarray]] = {}  # By mean and deviation: as each model knows it.
            for number, task in members:
                path = kept / f"{number}-{piece.start}.npz"
                if not path.exists():
                    known = task.card.frontend["mean"], task.card.frontend["std"]
                    if known not in shown:
                        own = replace(clips, mean=known[0], std=known[1])
                        shown[known] = [own.normalised(clips.log_mel(index, hop)) for index in piece]
                    logits, ms = _timed_logits(task, clips, piece, shown[known], batch_frames, device)
                    with atomic_path(path) as temporary, temporary.open("wb") as file:
                        np.savez(file, logits=logits, ms=ms)
                yield


def _timed_logits(
    task: Task, clips: Clips, piece: range, mels: list[np.ndarray], batch_frames: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (clips, c) and each batch's milliseconds per clip, without loading."""
    found, times = [], []
    with torch.inference_mode():
        one = pack([torch.zeros(task.view.seen, mels[0].shape[1])], stretch=[task.view.stretch])
        task.model(one.to(device), task.size)  # Resized kernels and positions are made once, and not timed.
        for batch in eval_batches(clips, task.view, batch_frames, piece, mels):
            batch = batch.to(device)  # noqa: PLW2901
            started = time.perf_counter()
            found.append(task.model(batch, task.size).float().cpu())  # Waits for the device.
            times.append((time.perf_counter() - started) * 1000 / len(batch))
    return torch.cat(found).numpy(), np.array(times)


def _report(
    task: Task,
    clips: Clips,
    grid: Grid,
    common: dict[str, Any],
    logits: np.ndarray,
    device: torch.device,
    found: Outcome,
) -> None:
    """Add what a cell's logits tell to an outcome."""
    entry, card, view, size = task.entry, task.card, task.view, task.size
    tokens, gmac = mean_cost(task.model, clips, view, size)
    shape = {
        "stage": entry.stage,
        "patch_f": size[0],
        "patch_t": size[1],
        "seconds": task.cell.seconds,
        "hop_ms": card.frontend["hop_ms"] * view.stretch,
    }
    told = {
        **common,
        **shape,
        "model": entry.name,
        "split": grid.split,
        "n": len(clips),
        "tokens": tokens,
        "gmac": gmac,
        "mib": clip_memory(task.model, view.seen, view.stretch, size, device),
    }
    found.rows.extend({**told, **measured} for measured in measure(logits, clips.target, card.multi_label))
    scores = {"id": clips.ids, "score": clip_scores(logits, clips.target, card.multi_label)}
    found.scores.append(pl.DataFrame(scores).with_columns(**{key: pl.lit(value) for key, value in shape.items()}))
    if size == card.patch and task.cell.seconds == grid.seconds and task.cell.hop_ms is None and not card.multi_label:
        found.predictions.extend({"stage": entry.stage, **said} for said in _predictions(clips, logits, card.classes))


def _predictions(clips: Clips, logits: np.ndarray, classes: list[str]) -> Iterator[dict[str, Any]]:
    probabilities = torch.softmax(torch.from_numpy(logits), 1).numpy()
    for place, (name, actual) in enumerate(zip(clips.ids, clips.target.argmax(1).tolist(), strict=True)):
        said = int(logits[place].argmax())
        yield {
            "id": name,
            "actual": classes[actual],
            "predicted": classes[said],
            "p_actual": float(probabilities[place, actual]),
            "p_predicted": float(probabilities[place, said]),
        }


def measure(logits: np.ndarray, target: np.ndarray, multi_label: bool) -> list[dict[str, Any]]:
    """Metric, value and interval columns of one cell."""
    found: list[dict[str, Any]] = []

    def add(metric: str, value: float, interval: tuple[float, float]) -> None:
        found.append({"metric": metric, "value": value, "ci_low": interval[0], "ci_high": interval[1]})

    if not multi_label:
        share = accuracy(logits, target)
        add("accuracy", share, wilson_interval(share, len(target)))
    add("map", mean_average_precision(logits, target), map_interval(logits, target))
    add("d_prime", d_prime(logits, target), d_prime_interval(logits, target))
    return found
