"""The sweep: every patch size x clip length for every model that a run has trained."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from audiolib.files import digest
from audiolib.loader import Clips, View, eval_batches, read_split
from audiolib.metrics import accuracy, d_prime, mean_average_precision, wilson_interval
from audiolib.models import SpectrogramTransformer
from audiolib.predict import BATCH_FRAMES, pick_device
from audiolib.pretrained import load, load_card
from audiolib.progress import track
from audiolib.results import as_size, home, patch_name

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
class Grid:
    """What is measured: every patch size (bands, frames that the model sees) at every clip length in seconds."""

    split: str
    patch_sizes: list[Size]
    seconds: list[float]
    batch_frames: int = BATCH_FRAMES


@dataclass(frozen=True)
class Outcome:
    """The rows of a sweep, and what each model says of each clip at the patch size and length it was trained at.

    A prediction has stage, id, actual and predicted; multi-label corpora have none.
    """

    rows: list[dict[str, Any]]
    predictions: list[dict[str, str]]


def grid_of(section: "EvaluateSection", seconds: list[float], settings: dict[str, Any]) -> Grid:
    """The grid of a pipeline pass. Where its models are at home is always in it: all curves pass through there."""
    own_patch, own_seconds = home(settings)
    patch_sizes = sorted({*section.patch_sizes, own_patch})
    return Grid(section.split, patch_sizes, sorted({*seconds, own_seconds}), section.batch_frames)


def run_columns(settings: dict[str, Any]) -> dict[str, Any]:
    """The columns that all rows of a pipeline pass share; its name is a digest of what was run."""
    run = {key: settings["params"][key] for key in ("model", "data", "seed")}
    return {"run": digest([run, settings["model"], settings["data"]]), "corpus": run["data"], "seed": run["seed"]}


def sweep(trained: list[Trained], features: Path, grid: Grid, common: dict[str, Any], device: str = "auto") -> Outcome:
    """Measure every model at every cell of a grid.

    Args:
        trained: the models.
        features: features folder.
        grid: clips are cut, or padded, to each of its lengths.
        common: columns that all rows share.
        device: where to compute.
    """
    where = pick_device(device)
    cells = [(entry, length, size) for entry in trained for length in grid.seconds for size in grid.patch_sizes]
    rows: list[dict[str, Any]] = []
    predictions: list[dict[str, str]] = []
    models = {entry.folder: (load(entry.folder, str(where)), load_card(entry.folder)) for entry in trained}
    sound = any(View(1, card.compression, card.method).needs_sound for _, card in models.values())
    clips = read_split(features, grid.split, sound)
    for entry, length, size in track(cells, "evaluate", total=len(cells), unit="cell"):
        model, card = models[entry.folder]
        view = View(max(1, round(length * 1000 / card.frontend["hop_ms"])), card.compression, card.method)
        logits, ms = _timed_logits(model, clips, view, size, where, grid.batch_frames)
        cell = {
            **common,
            "model": entry.name,
            "stage": entry.stage,
            "split": grid.split,
            "patch_f": size[0],
            "patch_t": size[1],
            "seconds": length,
            "hop_ms": card.frontend["hop_ms"] * view.hop * view.pool,
            "n": len(clips),
            "gmac": model.macs(view.seen, size) / 1e9,
            "ms": ms,
        }
        rows.extend({**cell, **measured} for measured in measure(logits, clips.target, card.multi_label))
        if size == card.patch and view.frames == card.frames and not card.multi_label:
            predictions.extend({"stage": entry.stage, **said} for said in _predictions(clips, logits, card.classes))
    return Outcome(rows, predictions)


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
    model: SpectrogramTransformer, clips: Clips, view: View, size: Size, device: torch.device, batch_frames: int
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
