"""The sweep: every patch size x clip length, and every hop, for every model that a run has trained."""

import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from audiolib.dataset import Clips, read_split
from audiolib.files import digest
from audiolib.loader import eval_batches
from audiolib.metrics import accuracy, d_prime, mean_average_precision, wilson_interval
from audiolib.models import Classifier
from audiolib.predict import BATCH_FRAMES, pick_device
from audiolib.pretrained import Card, load, load_card
from audiolib.progress import track
from audiolib.results import as_size, home, patch_name
from audiolib.views import View

if TYPE_CHECKING:
    from audiolib.config.evaluation import EvaluateSection

Size = tuple[int, int]


@dataclass(frozen=True)
class Trained:
    """A model under test: its folder, the stage that made it, and what result rows call it."""

    folder: Path
    stage: str
    name: str


@dataclass(frozen=True)
class Cell:
    """One shape: patch (bands, frames that the model sees), clip length, and hop; null = the hop it was trained at."""

    patch: Size
    seconds: float
    hop_ms: float | None = None


@dataclass(frozen=True)
class Grid:
    """What is measured: a split of the corpus at each of these shapes; predictions are kept at `seconds`."""

    split: str
    cells: list[Cell]
    seconds: float
    batch_frames: int = BATCH_FRAMES


@dataclass(frozen=True)
class Outcome:
    """The rows of a sweep, and what each model says of each clip at its own patch size and hop.

    A prediction has stage, id, actual and predicted; multi-label corpora have none.
    """

    rows: list[dict[str, Any]]
    predictions: list[dict[str, str]]


def grid_of(section: "EvaluateSection", seconds: list[float], settings: dict[str, Any]) -> Grid:
    """The grid of a pipeline pass: every patch size x length, and a line of hops.

    Where its models are at home is always in it: all curves pass through there.
    """
    own = home(settings)
    sizes, lengths = sorted({*section.patch_sizes, own.patch}), sorted({*seconds, own.seconds})
    cells = [Cell(size, length) for length in lengths for size in sizes]
    cells += [Cell(own.patch, own.seconds, hop) for hop in section.hops_ms]
    return Grid(section.split, cells, own.seconds, section.batch_frames)


def run_columns(settings: dict[str, Any]) -> dict[str, Any]:
    """The columns that all rows of a pipeline pass share; its name is a digest of what was run."""
    run = {key: settings["params"][key] for key in ("model", "data", "seed")}
    return {"run": digest([run, settings["model"], settings["data"]]), "corpus": run["data"], "seed": run["seed"]}


def view_of(card: Card, cell: Cell) -> View:
    """How a cell shows clips to a model: padded if it was trained so, at the cell's hop or at its own compression."""
    stored = card.frontend["hop_ms"]
    view = View(max(1, round(cell.seconds * 1000 / stored)), padded=card.padded)
    if cell.hop_ms is None:
        return view.coarser(card.compression, card.method)
    return replace(view, hop=cell.hop_ms / stored)


def sweep(trained: list[Trained], features: Path, grid: Grid, common: dict[str, Any], device: str = "auto") -> Outcome:
    """Measure every model at every cell of a grid.

    Args:
        trained: the models.
        features: features folder.
        grid: clips are cut to each of its lengths, and padded for a model that was trained on padded ones.
        common: columns that all rows share.
        device: where to compute.
    """
    where = pick_device(device)
    models = {entry.folder: (load(entry.folder, str(where)), load_card(entry.folder)) for entry in trained}
    asked: dict[tuple[Trained, Size, float, float], tuple[Cell, View]] = {}
    for entry in trained:
        for cell in grid.cells:  # A cell that asks for the hop that a model has anyway is not measured twice.
            view = view_of(models[entry.folder][1], cell)
            asked.setdefault((entry, cell.patch, cell.seconds, view.stretch), (cell, view))
    clips = read_split(features, grid.split, any(view.needs_sound for _, view in asked.values()))
    rows: list[dict[str, Any]] = []
    predictions: list[dict[str, str]] = []
    for (entry, size, _, _), (cell, view) in track(asked.items(), "evaluate", total=len(asked), unit="cell"):
        model, card = models[entry.folder]
        logits, ms = _timed_logits(model, clips, view, size, where, grid.batch_frames)
        told = {
            **common,
            "model": entry.name,
            "stage": entry.stage,
            "split": grid.split,
            "patch_f": size[0],
            "patch_t": size[1],
            "seconds": cell.seconds,
            "hop_ms": card.frontend["hop_ms"] * view.stretch,
            "n": len(clips),
            "gmac": _gmac(model, clips, view, size),
            "ms": ms,
        }
        rows.extend({**told, **measured} for measured in measure(logits, clips.target, card.multi_label))
        if size == card.patch and cell.seconds == grid.seconds and cell.hop_ms is None and not card.multi_label:
            predictions.extend({"stage": entry.stage, **said} for said in _predictions(clips, logits, card.classes))
    return Outcome(rows, predictions)


def _gmac(model: Classifier, clips: Clips, view: View, size: Size) -> float:
    """Mean over the clips, each as long as it is shown."""
    frames = [view.frames if view.padded else min(view.frames, own) for own in clips.frames.tolist()]
    shown = Counter(replace(view, frames=n).seen for n in frames)
    return sum(count * model.macs(seen, size) for seen, count in shown.items()) / len(clips) / 1e9


def _predictions(clips: Clips, logits: np.ndarray, classes: list[str]) -> list[dict[str, str]]:
    pairs = zip(clips.ids, clips.target.argmax(1), logits.argmax(1), strict=True)
    return [{"id": name, "actual": classes[actual], "predicted": classes[said]} for name, actual, said in pairs]


def trained_name(preset: dict[str, Any], stage: str) -> str:
    """What a stage has trained, as result rows call it: `ast-p16` for one patch size, `flexi` for several."""
    family = preset["architecture"]["name"].split("_")[0]
    sizes = preset[stage]["patch_sizes"]
    return f"ast-{patch_name(*as_size(sizes[0]))}" if len(sizes) == 1 and family in ("ast", "flexi") else family


def measure(logits: np.ndarray, target: np.ndarray, multi_label: bool) -> list[dict[str, Any]]:
    """Metric, value and interval columns of one cell."""
    found: list[dict[str, Any]] = []
    if not multi_label:
        share = accuracy(logits, target)
        low, high = wilson_interval(share, len(target))
        found.append({"metric": "accuracy", "value": share, "ci_low": low, "ci_high": high})
    found.append({"metric": "map", "value": mean_average_precision(logits, target)})
    found.append({"metric": "d_prime", "value": d_prime(logits, target)})
    return found


def _timed_logits(
    model: Classifier, clips: Clips, view: View, size: Size, device: torch.device, batch_frames: int
) -> tuple[np.ndarray, float]:
    """Logits (clips, c) and the median over batches of milliseconds per clip, without loading."""
    found, times = [], []
    with torch.inference_mode():
        for batch in eval_batches(clips, view, batch_frames):
            batch = batch.to(device)  # noqa: PLW2901
            started = time.perf_counter()
            found.append(model(batch, size).float().cpu())  # Waits for the device.
            times.append((time.perf_counter() - started) * 1000 / len(batch))
    return torch.cat(found).numpy(), float(np.median(times))
