"""The sweep: every patch size x clip length x hop of a grid, for every model, on the same clips.

What a cell has found is kept piece by piece until its outcome is written: the same sweep again, after a crash, goes on
where it was.
"""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from audiolib.costs import ClipMemory, mean_cost
from audiolib.dataset import Clips, read_split
from audiolib.errors import AudiolibError
from audiolib.files import code_digest, digest, scratch_folder, sha256_file
from audiolib.grid import Grid, Size, Trained, view_of
from audiolib.intervals import ranking_intervals, wilson_interval
from audiolib.metrics import accuracy, clip_scores, d_prime, mean_average_precision
from audiolib.predict import pick_device
from audiolib.pretrained import load, load_card
from audiolib.progress import track
from audiolib.shards import ShardFolder
from audiolib.sweep_pass import Task, ask, pieces_of

ROOT = Path(__file__).resolve().parent.parent
# The files that decide what a sweep finds; one that others began is not continued.
CODE = ("*.py", "models/*.py", "kernels/*/*.py", "kernels/*/*.cpp", "kernels/compile.py", "kernels/*.h")


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
    kept = (scratch or scratch_folder(ROOT)) / "sweeps" / _fingerprint(trained, features, grid, where, kernels)
    kept.mkdir(parents=True, exist_ok=True)
    pieces = pieces_of(clips)
    memory = ClipMemory(where)
    work = ask(tasks, clips, pieces, grid.batch_frames, memory, kept)
    for _ in track(work, "evaluate", total=len(tasks) * len(pieces), unit="cell"):
        pass
    found = Outcome([], [], [], kept)
    # Of several labels a clip the intervals of a cell take seconds.
    for number, task in track(enumerate(tasks), "intervals", total=len(tasks), unit="cell"):
        parts = [np.load(kept / f"{number}-{piece.start}.npz") for piece in pieces]
        logits = np.concatenate([part["logits"] for part in parts])
        frame_ms = np.concatenate([part["frame_ms"] for part in parts])
        frames = np.concatenate([part["frames"] for part in parts])
        tokens, gmac = mean_cost(task.model, frames.tolist(), task.size)
        costs = {"ms": _mean_ms(frames, frame_ms), "tokens": tokens, "gmac": gmac}
        _report(task, clips, grid, {**common, **costs}, logits, memory, found)
    return found


def _check(model: Path, shards: ShardFolder) -> None:
    """Refuse clips that a model cannot be asked about."""
    card = load_card(model)
    if card.classes != shards.classes:
        raise AudiolibError(f"{model} was trained on other classes than {shards.folder} has; train it again")
    own = card.heard(shards.frontend)
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


def _fingerprint(
    trained: list[Trained], features: Path, grid: Grid, device: torch.device, kernels: dict[str, str]
) -> str:
    """All that decides what a sweep finds."""
    weights = [(entry.name, entry.stage, sha256_file(entry.folder / "config.json")) for entry in trained]
    code = code_digest(Path(__file__).parent, CODE)
    return digest([weights, sha256_file(features / "index.json"), asdict(grid), str(device), kernels, code])


def _mean_ms(frames: np.ndarray, frame_ms: np.ndarray) -> float:
    """Milliseconds a clip: the mean, in which clips of equal length count as their median.

    The median holds against a batch that the machine held up.

    Args:
        frames: (clips,) that the model sees of each.
        frame_ms: (clips,) milliseconds per frame of the batch that each was in.
    """
    lengths, counts = np.unique(frames, return_counts=True)
    typical = [float(np.median(frame_ms[frames == length])) for length in lengths]
    return float((lengths * counts) @ typical) / len(frames)


def _report(
    task: Task,
    clips: Clips,
    grid: Grid,
    common: dict[str, Any],
    logits: np.ndarray,
    memory: ClipMemory,
    found: Outcome,
) -> None:
    """Add what a cell's logits tell to an outcome."""
    entry, card, view, size = task.entry, task.card, task.view, task.size
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
        "mib": memory.mib(task.model, view.seen, size),
    }
    target = clips.target
    found.rows.extend({**told, **measured} for measured in measure(logits, target, card.multi_label))
    scores = {"id": clips.ids, "score": clip_scores(logits, target, card.multi_label)}
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
    precision, area = ranking_intervals(logits, target)
    add("map", mean_average_precision(logits, target), precision)
    add("d_prime", d_prime(logits, target), area)
    return found
