"""The report of one run: a self-contained page, and its figures as PNG."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import polars as pl
import yaml
from matplotlib.figure import Figure

from audiolib import figures
from audiolib.files import disk_errors, write_text
from audiolib.results import Home, as_size, at_home, at_own_hop, home, main_metric, matrix, patch_name, read_rows
from audiolib.shards import ShardFolder

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class Sources:
    """Folders that a report is made from, and the settings it shows; `stages` are the training stages in order."""

    features: Path
    evaluate: Path
    stages: dict[str, Path]
    settings: dict[str, Any]


def render(sources: Sources, out: Path, classes_shown: int) -> None:
    """Write `report.html` and the figures to `out`."""
    rows = read_rows(sources.evaluate)
    metric = main_metric(rows)
    params, preset = sources.settings["params"], sources.settings["model"]
    own = home(sources.settings)
    titles = {stage: _title(stage, preset) for stage in sources.stages if stage in rows["stage"]}
    drawn = _figures(sources, rows, metric, titles, own, classes_shown)
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        with disk_errors(out):
            figure.savefig(out / f"{name}.png", dpi=110, metadata={"Software": None})
    page = jinja2.Environment(autoescape=True).from_string(_TEMPLATE.read_text(encoding="utf-8"))
    text = page.render(
        title=f"{params['model']} on {params['data']}",
        subtitle=f"{rows['n'][0]} {rows['split'][0]} clips, seed {params['seed']}, {preset['architecture']['name']}",
        tiles=_tiles(at_own_hop(rows, own), metric, own),
        sections=_sections(drawn, metric),
        metric=metric,
        cells=rows.filter(pl.col("metric") == metric)
        .sort("stage", "patch_f", "patch_t", "seconds", "hop_ms")
        .rows(named=True),
        settings=yaml.safe_dump(sources.settings, sort_keys=False),
    )
    write_text(out / "report.html", text)


def _figures(
    sources: Sources,
    rows: pl.DataFrame,
    metric: str,
    titles: dict[str, str],
    own: Home,
    classes_shown: int,
) -> dict[str, Figure]:
    over_patch, over_length, over_hop = (at_home(rows, axis, own) for axis in ("patch", "length", "hop"))
    sizes = _trained_sizes(sources.settings["model"])
    history = [row for folder in sources.stages.values() for row in _history(folder / "history.csv")]
    shards = ShardFolder(sources.features)
    drawn = {
        "matrix": figures.heat_maps(at_own_hop(rows, own), metric, titles),
        "patch": figures.curve(over_patch, metric, "patch_t", "patch size", titles, sizes),
        "length": figures.curve(over_length, metric, "seconds", "clip length (s)", titles, [own.seconds]),
        "hop": figures.curve(over_hop, metric, "hop_ms", "hop (ms)", titles, _trained_hops(sources.settings)),
        "compute": figures.curve(over_patch, metric, "gmac", "multiply-accumulates per clip (G)", titles, []),
        "training": figures.training(history),
        "spectrograms": figures.spectrograms(_examples(shards, classes_shown), shards.frontend["hop_ms"]),
    }
    predictions = pl.read_csv(sources.evaluate / "predictions.csv", infer_schema=False)
    final = predictions.filter(pl.col("stage") == "finetune")
    if len(final):
        drawn["confusion"] = figures.confusions(final, shards.classes)
    return drawn


def _sections(drawn: dict[str, Figure], metric: str) -> list[dict[str, Any]]:
    texts = {
        "Patch size x clip length": (
            f"{metric.capitalize()} in per cent. Both models see the same test clips, cut to each length; a shorter "
            "clip is padded, or kept as it is for a model that was trained so. Patches of a size that a model does not "
            "store come from its resized kernel, without training.",
            ["matrix"],
        ),
        "One axis at a time": (
            "Dotted lines mark what the last stage was trained at; bands are 95 % intervals. The last figure is the "
            "training: what each epoch reached for what had been spent by then.",
            ["patch", "length", "hop", "compute", "training"],
        ),
        "What is taken for what": ("The last model at its own patch size and length.", ["confusion"]),
        "What it hears": ("The first training clip of each class, as log-mel.", ["spectrograms"]),
    }
    return [
        {
            "title": title,
            "text": text,
            "wide": len(names) == 1,
            "figures": [figures.svg(drawn[name]) for name in names if name in drawn],
        }
        for title, (text, names) in texts.items()
        if any(name in drawn for name in names)
    ]


def _tiles(rows: pl.DataFrame, metric: str, own: Home) -> list[dict[str, str]]:
    """The numbers to remember: at home, and over foreign patch sizes."""
    tiles = []
    for stage in rows["stage"].unique(maintain_order=True):
        names, lengths, values = matrix(rows, stage, metric)
        if own.seconds not in lengths:
            continue
        line = [values[place][lengths.index(own.seconds)] for place in range(len(names))]
        known = [value for value in line if value is not None]
        name = patch_name(*own.patch)
        if name in names and line[names.index(name)] is not None:
            there = line[names.index(name)]
            tiles.append({"value": f"{100 * there:.1f} %", "text": f"{stage}: {metric} at patch {own.patch[0]}"})
        tiles.append({"value": f"{100 * float(np.mean(known)):.1f} %", "text": f"{stage}: mean over all patch sizes"})
    return tiles


def _title(stage: str, preset: dict[str, Any]) -> str:
    """What a stage's model is, in words."""
    recipe = preset[stage]
    if not recipe["phases"]:
        return f"{stage}: untrained"
    coarse = recipe["phases"][-1]["compression"]
    sizes = recipe["patch_sizes"]
    kind = f"patch {sizes[0]}" if len(sizes) == 1 else f"{len(sizes)} patch sizes"
    return f"{stage}: {kind}" + (f", {coarse}x coarser time" if coarse > 1 else "")


def _trained_sizes(preset: dict[str, Any]) -> list[float]:
    return [float(as_size(size)[1]) for size in preset["finetune"]["patch_sizes"]]


def _trained_hops(settings: dict[str, Any]) -> list[float]:
    packing = settings["model"]["finetune"].get("packing")
    return packing["hops_ms"] if packing else [home(settings).hop_ms["finetune"]]


def _history(path: Path) -> list[dict[str, Any]]:
    return pl.read_csv(path).rows(named=True) if path.stat().st_size else []


def _examples(shards: ShardFolder, count: int) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for row in shards.rows("train"):
        name = shards.classes[row.label[0]]
        if name not in found:
            found[name] = row.log_mel
        if len(found) == len(shards.classes):
            break
    return dict(sorted(found.items())[:count])
