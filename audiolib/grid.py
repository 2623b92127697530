"""What a sweep measures: the models under test, and the cells of patch size x clip length x hop."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolib.files import digest
from audiolib.predict import BATCH_FRAMES
from audiolib.pretrained import Card
from audiolib.results import as_size, home, patch_name
from audiolib.views import View

if TYPE_CHECKING:
    from audiolib.config.evaluation import EvaluatePreset

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


def grid_of(section: "EvaluatePreset", seconds: list[float], settings: dict[str, Any]) -> Grid:
    """The grid of a pipeline pass, from the lists of its preset (`cells` there says which combinations).

    Where its models are at home is always in it: all curves pass through there.

    Args:
        section: the preset.
        seconds: clip lengths, where the preset does not name any.
        settings: params and presets of the pass.
    """
    own = home(settings)
    homes = sorted(set(own.patch.values()))
    sizes = sorted({*section.patch_sizes, *homes})
    lengths = sorted({*(seconds if section.seconds is None else section.seconds), own.seconds})
    hops = [None, *section.hops_ms]
    if section.cells == "product":
        cells = [Cell(size, length, hop) for hop in hops for length in lengths for size in sizes]
    elif section.cells == "matrix":
        cells = [Cell(size, length) for length in lengths for size in sizes]
    else:
        cells = [Cell(size, own.seconds) for size in sizes]
        cells += [Cell(patch, length) for patch in homes for length in lengths if length != own.seconds]
    if section.cells != "product":
        cells += [Cell(patch, own.seconds, hop) for patch in homes for hop in section.hops_ms]
    return Grid(section.split, cells, own.seconds, section.batch_frames)


def run_columns(settings: dict[str, Any]) -> dict[str, Any]:
    """The columns that all rows of a pipeline pass share; its name is a digest of what was run.

    `fold` is that of the test, where a corpus has folds.
    """
    run = {key: settings["params"][key] for key in ("model", "data", "seed")}
    named = {"run": digest([run, settings["model"], settings["data"]]), "corpus": run["data"], "seed": run["seed"]}
    return {**named, "fold": settings["data"]["source"].get("fold")}


def view_of(card: Card, cell: Cell) -> View:
    """How a cell shows clips to a model: padded if it was trained so, at the cell's hop or at its own compression."""
    stored = card.frontend["hop_ms"]
    view = View(max(1, round(cell.seconds * 1000 / stored)), padded=card.padded, fill=card.fill)
    own = view.coarser(card.compression, card.method)
    if cell.hop_ms is None or math.isclose(cell.hop_ms, stored * own.stretch):
        return own
    return replace(view, hop=cell.hop_ms / stored)


def trained_name(preset: dict[str, Any], stage: str) -> str:
    """What a stage has trained: `ast-p16` for one patch size, `flexi` for several, `any` for several in packs.

    An Audio Mamba in packs is `aum-packs`, and `any-aum` at several sizes.
    """
    family = preset["architecture"]["name"].split("_")[0]
    sizes, packed = preset[stage]["patch_sizes"], preset[stage].get("packing") is not None
    if packed and len(sizes) > 1:
        return "any" if family == "elastic" else f"any-{family}"
    if len(sizes) == 1 and family in ("ast", "flexi"):
        return f"ast-{patch_name(*as_size(sizes[0]))}"
    return f"{family}-packs" if packed and family != "elastic" else family
