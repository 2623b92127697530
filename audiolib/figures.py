"""Figures of a report, from result rows; each is a matplotlib figure that the caller saves or embeds."""

import base64
import io
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from audiolib.compare import Comparison
from audiolib.pareto import COSTS, front
from audiolib.published import curves
from audiolib.results import AXES, Matrix, along, matrix, measured_axes, plane

mpl.rcParams["font.size"] = 10
mpl.rcParams["text.parse_math"] = False  # A class may be called `$5 to $10`.


def png(figure: Figure) -> str:
    """A figure as text of base64, to put into a page."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=90, metadata={"Software": None})
    return base64.b64encode(out.getvalue()).decode()


def heat_maps(found: Comparison) -> Figure:
    """Patch size x clip length at each model's own hop, on one scale."""
    return _heat_maps({label: found.matrix(label) for label in found.labels}, found.metric)


def study_heat_maps(rows: pl.DataFrame, order: list[str]) -> Figure:
    """A study on one corpus: patch size x clip length of each model, means over seeds.

    Args:
        rows: kept rows of the corpus.
        order: models, in the order of the panels.
    """
    models = {model: rows.filter(pl.col("model") == model) for model in order}
    return _heat_maps({model: matrix(plane(own)) for model, own in models.items() if len(own)}, "accuracy")


def _heat_maps(matrices: dict[str, Matrix], metric: str) -> Figure:
    columns = min(3, len(matrices))
    lines = -(-len(matrices) // columns)
    figure = Figure(figsize=(5.2 * columns, 4.6 * lines), layout="constrained")
    grid = np.ravel(figure.subplots(lines, columns, squeeze=False))
    for axes in grid[len(matrices) :]:
        axes.set_axis_off()
    for axes, (label, (names, lengths, values)) in zip(grid, matrices.items(), strict=False):
        cells = np.array([[np.nan if v is None else v for v in line] for line in values], dtype=float)
        image = axes.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
        axes.set(title=label, xlabel="clip length (s)", ylabel="patch size")
        axes.set_xticks(range(len(lengths)), [f"{s:g}" for s in lengths])
        axes.set_yticks(range(len(names)), [name.removeprefix("p") for name in names])
        for (y, x), value in np.ndenumerate(cells):
            if np.isfinite(value):
                axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", color="w" if value < 0.6 else "k")
    figure.colorbar(image, ax=figure.axes, label=metric, fraction=0.03)
    return figure


def curve(found: Comparison, axis: str, trained: list[float]) -> Figure:
    """The metric along `patch`, `length` or `hop`, a line with its interval for each model.

    Args:
        found: the models.
        axis: which.
        trained: places that the last model was trained at, marked.
    """
    figure, place = Figure(figsize=(5.6, 3.9), layout="constrained"), AXES[axis][0]
    axes, line = figure.subplots(), found.line(axis)
    for number, label in enumerate(found.labels):
        own = line.filter(pl.col("label") == label)
        axes.plot(own[place], own["value"], marker="o", ms=4, color=f"C{number % 10}", label=label)
        if own["low"].null_count() == 0:
            axes.fill_between(own[place], own["low"], own["high"], color=f"C{number % 10}", alpha=0.15, lw=0)
    for drawn in curves(found.corpus, found.metric, axis):
        axes.plot(drawn.places, drawn.values, color="#888", lw=0.8, ls="--", label=drawn.label)
    for value in trained:
        axes.axvline(value, color="#888", lw=0.5, ls=":")
    axes.set(xlabel=_LABELS[axis], ylabel=found.metric, ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    return figure


def pareto(found: Comparison, cost: str) -> Figure:
    """Every cell of every model over its cost, and the front that nothing beats."""
    figure, cells = Figure(figsize=(5.6, 3.9), layout="constrained"), found.cells()
    axes, best = figure.subplots(), front(cells, cost)
    axes.step(best[cost], best["value"], where="post", color="#888", ls=":", label="front")
    for number, label in enumerate(found.labels):
        own = cells.filter(pl.col("label") == label)
        axes.scatter(own[cost], own["value"], s=14, color=f"C{number % 10}", alpha=0.75, label=label)
    axes.set(xlabel=COSTS[cost], ylabel=found.metric, ylim=(0, 1.02), xscale="log")
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))  # 20, 30 where there is no 10 and 100.
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    return figure


def training(history: list[dict[str, Any]]) -> Figure:
    """Validation score over the compute spent, coarse phases marked."""
    figure = Figure(figsize=(5.6, 3.9), layout="constrained")
    axes = figure.subplots()
    spent = 0.0
    for stage, colour in (("pretrain", "C1"), ("finetune", "C0")):
        line = [row for row in history if row["stage"] == stage]
        if not line:
            continue
        cost = np.array([row["gmac_cum"] for row in line]) / 1000 + spent
        score = np.array([row["valid_score"] for row in line])
        axes.plot(cost, score, color=colour, label=stage, marker=".", ms=4)
        coarse = np.array([row["compression"] > 1 for row in line])
        axes.plot(cost[coarse], score[coarse], ls="", marker="s", ms=5, mfc="none", color=colour)
        spent = float(cost[-1])
    axes.set(
        xlabel="training so far (TMAC, forward)",
        ylabel="validation score",
        ylim=(0, 1.02),
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False, title="squares: coarse resolution")
    return figure


def confusions(predictions: pl.DataFrame, classes: list[str]) -> Figure:
    """Row: true class; column: predicted."""
    counts = np.zeros((len(classes), len(classes)), int)
    place = {name: number for number, name in enumerate(classes)}
    for actual, said in predictions.select("actual", "predicted").rows():
        counts[place[actual], place[said]] += 1
    size = min(12.0, 2.5 + 0.36 * len(classes))
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= 50:
        for (y, x), count in np.ndenumerate(counts):
            if count:
                shade = count / counts[y].sum()
                axes.text(x, y, count, ha="center", va="center", fontsize=8, color="w" if shade > 0.6 else "k")
    return figure


def spectrograms(examples: dict[str, np.ndarray], hop_ms: float) -> Figure:
    """One log-mel (t, f) for each class, over seconds and mel bands."""
    columns = min(5, len(examples))
    lines = -(-len(examples) // columns)
    width, height = 0.3 + 2.4 * columns, 0.05 + 1.9 * lines
    figure = Figure(figsize=(width, height))
    # Margins in inches: a layout that finds them itself takes most of the time of a report.
    margins = {"left": 0.4 / width, "right": 1 - 0.2 / width, "bottom": 0.25 / height, "top": 1 - 0.25 / height}
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True, gridspec_kw={**margins, "hspace": 0.35}).ravel()
    for axes in grid[len(examples) :]:
        axes.set_axis_off()
    for axes, (name, mel) in zip(grid, examples.items(), strict=False):
        seconds = len(mel) * hop_ms / 1000
        axes.imshow(
            mel.T.astype(np.float32), origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, mel.shape[1])
        )
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    return figure


def heard_over_time(mel: np.ndarray, hop_ms: float, centres: list[float], lines: dict[str, list[float]]) -> Figure:
    """A spectrogram, and below it how probable each class is over time.

    Args:
        mel: (t, f) log-mel.
        hop_ms: its hop.
        centres: seconds, the middles of the windows.
        lines: for each class its probability in each window.
    """
    figure, seconds = Figure(figsize=(8, 4.6), layout="constrained"), len(mel) * hop_ms / 1000
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.imshow(mel.T, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, mel.shape[1]))
    upper.set(ylabel="mel band")
    for name, values in lines.items():
        lower.plot(centres, values, marker="o", ms=3, label=name)
    lower.set(xlabel="seconds", ylabel="probability", ylim=(0, 1.02), xlim=(0, seconds))
    lower.grid(alpha=0.25)
    lower.legend(lower.get_lines(), list(lines), fontsize=8, loc="upper right")  # `_silence_` would be left out.
    return figure


def study_lines(
    rows: pl.DataFrame, order: list[str], costs: dict[tuple[str, str], tuple[float, list[float]]]
) -> Figure:
    """A study: accuracy along each axis it has measured, and at home over the cost of training; a line a corpus.

    Args:
        rows: kept rows.
        order: models, in the order of the legend.
        costs: for each corpus and model the 10^12 multiply-accumulates of training, and each seed's accuracy at home.
    """
    corpora, panels = rows["corpus"].unique(maintain_order=True).to_list(), [*measured_axes(rows), "cost"]
    styles = _styles(order)
    figure = Figure(figsize=(5.2 * len(panels), 4.2 * len(corpora)), layout="constrained")
    grid = figure.subplots(len(corpora), len(panels), squeeze=False)
    for line, corpus in zip(grid, corpora, strict=True):
        for axes, panel in zip(line, panels, strict=True):
            for model in order:
                own = rows.filter((pl.col("corpus") == corpus) & (pl.col("model") == model))
                if len(own):
                    style = styles[model]
                    if panel == "cost" and (corpus, model) not in costs:
                        continue
                    if panel == "cost":
                        cost, shares = costs[corpus, model]
                        axes.errorbar(cost, 100 * np.mean(shares), 100 * np.std(shares, ddof=len(shares) > 1), **style)
                    else:
                        x, y, spread = _line(own, panel)
                        axes.errorbar(x, y, spread, **style)
            where = " at home" if panel == "cost" else ""
            axes.set(title=corpus, xlabel=_LABELS[panel], ylabel=f"accuracy{where} (%)")
            axes.grid(alpha=0.3)
        line[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _styles(order: list[str]) -> dict[str, dict[str, Any]]:
    """How each model is drawn; one that was trained coarse to fine as its single-phase self, dashed and hollow."""
    kinds = list(dict.fromkeys(model.removesuffix(_COARSE) for model in order))
    palette = mpl.colormaps["tab10" if len(kinds) <= 10 else "tab20"]
    found = {}
    for model in order:
        number, coarse = kinds.index(model.removesuffix(_COARSE)), model.endswith(_COARSE)
        line = {"ls": "--", "lw": 0.8, "elinewidth": 0.8, "mfc": "white"} if coarse else {"lw": 1.4}
        found[model] = {"color": palette(number), "marker": "os^DvPX"[number % 7], "ms": 4, "label": model, **line}
    return found


_COARSE = " coarse to fine"
_LABELS = {
    "patch": "patch size",
    "length": "clip length (s)",
    "hop": "hop (ms)",
    "cost": "10^12 multiply-accumulates of training, forward",
}


def _line(rows: pl.DataFrame, axis: str) -> tuple[pl.Series, pl.Series, pl.Series]:
    """Places, mean and spread over seeds, in per cent."""
    place = AXES[axis][0]
    value = pl.col("value") * 100
    found = along(rows, axis).group_by(place).agg(value.mean(), value.std().fill_null(0).alias("spread")).sort(place)
    return found[place], found["value"], found["spread"]
