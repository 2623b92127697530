"""Charts of a page that answer to the pointer: result rows to Plotly, one door to it.

Colours of text and grid are left to the page, which follows the reader's light or dark setting.
"""

import json
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.offline import get_plotlyjs

from audiolib.compare import Comparison
from audiolib.pareto import COSTS, front
from audiolib.published import curves
from audiolib.record import Record
from audiolib.results import AXES

# Distinct also for colour-blind readers (Okabe and Ito), readable on white and on black.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a7300", "#7f7f7f"]
LABELS = {"patch": "patch size (frames)", "length": "clip length (s)", "hop": "hop (ms)"}
LIBRARY = get_plotlyjs


def element(figure: go.Figure, name: str, choices: dict[str, list[dict[str, Any]]] | None = None) -> str:
    """A chart as an element and the script that draws it; the page needs `LIBRARY()` once before.

    Args:
        figure: the chart.
        name: of the element, once a page.
        choices: buttons, and what each changes: updates of the traces and of the layout.
    """
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        margin={"l": 56, "r": 16, "t": 36, "b": 48},
        height=figure.layout.height or 380,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hoverlabel={"align": "left"},
    )
    drawn = json.loads(figure.to_json())
    drawn["layout"].pop("template", None)
    data, layout, changes = (
        _script(value) for value in (drawn["data"], drawn["layout"], list((choices or {}).values()))
    )
    buttons = "".join(
        f"<button onclick=\"choose('{name}', {number})\">{label}</button>" for number, label in enumerate(choices or {})
    )
    return (
        f'<div class="chart">{buttons}<div id="{name}"></div></div>'
        f'<script>draw("{name}", {data}, {layout}, {changes});</script>'
    )


def _script(value: Any) -> str:
    """A value inside a script: a closing tag in a name must not end it."""
    return json.dumps(value).replace("</", "<\\/")


def _colour(found: Comparison, label: str) -> str:
    return COLOURS[found.labels.index(label) % len(COLOURS)]


def lines(found: Comparison, axis: str, trained: list[float]) -> go.Figure:
    """The metric along one axis, a line with its interval for each model.

    Args:
        found: the models.
        axis: `patch`, `length` or `hop`.
        trained: places that the last model was trained at, marked.
    """
    figure, place = go.Figure(), AXES[axis][0]
    for label, own in found.line(axis).group_by("label", maintain_order=True):
        colour, x = _colour(found, label[0]), own[place].to_list()
        if own["low"].null_count() == 0:
            band = [*own["high"].to_list(), *own["low"].to_list()[::-1]]
            figure.add_scatter(
                x=[*x, *x[::-1]],
                y=band,
                fill="toself",
                fillcolor=colour,
                opacity=0.15,
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=label[0],
            )
        figure.add_scatter(
            x=x,
            y=own["value"].to_list(),
            name=label[0],
            legendgroup=label[0],
            mode="lines+markers",
            line={"color": colour},
            customdata=own.select("low", "high", "tokens", "ms", "seeds").rows(),
            hovertemplate="%{x}: <b>%{y:.1%}</b> (%{customdata[0]:.1%} to %{customdata[1]:.1%})<br>"
            "%{customdata[2]:.0f} tokens, %{customdata[3]:.2f} ms, %{customdata[4]} seed(s)",
        )
    for line in curves(found.corpus, found.metric, axis):
        figure.add_scatter(
            x=line.places,
            y=line.values,
            name=line.label,
            mode="lines",
            line={"color": "#888", "dash": "dash", "width": 1},
            hovertemplate="%{x}: %{y:.1%}",
        )
    for value in trained:
        figure.add_vline(value, line={"width": 1, "dash": "dot", "color": "#888"})
    figure.update_layout(xaxis={"title": LABELS[axis]}, yaxis=_share_axis(found.metric))
    return figure


def _share_axis(metric: str) -> dict[str, Any]:
    return {"title": metric, "tickformat": ".0%", "range": [0, 1.02]}


def heat_map(found: Comparison, label: str) -> go.Figure:
    """Patch size x clip length of one model at its own hop."""
    names, lengths, grid = found.matrix(label)
    text = [["" if value is None else f"{100 * value:.0f}" for value in line] for line in grid]
    figure = go.Figure(
        go.Heatmap(
            z=grid,
            x=[f"{s:g}" for s in lengths],
            y=[name.removeprefix("p") for name in names],
            text=text,
            texttemplate="%{text}",
            zmin=0,
            zmax=1,
            colorscale="Viridis",
            colorbar={"tickformat": ".0%"},
            hovertemplate="patch %{y}, %{x} s: %{z:.1%}<extra></extra>",
        )
    )
    axes = {"xaxis": {"title": "clip length (s)", "type": "category"}, "yaxis": {"title": "patch", "type": "category"}}
    return figure.update_layout(title={"text": label, "font": {"size": 14}}, **axes)


def pareto(found: Comparison) -> tuple[go.Figure, dict[str, list[dict[str, Any]]]]:
    """Every cell of every model over its cost, and the front that nothing beats; with the choices of a cost."""
    figure, cells = go.Figure(), found.cells()
    shown = [cost for cost in COSTS if cells[cost].null_count() == 0]
    for number, cost in enumerate(shown):
        best = front(cells, cost)
        figure.add_scatter(
            x=best[cost].to_list(),
            y=best["value"].to_list(),
            mode="lines",
            name="front",
            visible=number == 0,
            line={"shape": "hv", "color": "#888", "dash": "dot"},
            hoverinfo="skip",
        )
        for label in found.labels:
            own = cells.filter(pl.col("label") == label)
            figure.add_scatter(
                x=own[cost].to_list(),
                y=own["value"].to_list(),
                mode="markers",
                name=label,
                visible=number == 0,
                marker={"color": _colour(found, label), "size": 7, "opacity": 0.75},
                customdata=own.select("patch_f", "patch_t", "seconds", "hop_ms", "ms", "mib", "tokens").rows(),
                hovertemplate=f"<b>{label}</b> %{{y:.1%}}<br>patch %{{customdata[0]}} x %{{customdata[1]}}, "
                "%{customdata[2]:g} s, hop %{customdata[3]:g} ms<br>%{customdata[4]:.2f} ms, %{customdata[5]:.2f} MiB, "
                "%{customdata[6]:.0f} tokens<extra></extra>",
            )
    axis = {"title": COSTS[shown[0]], "type": "log"}
    figure.update_layout(xaxis=axis, yaxis=_share_axis(found.metric), height=460)
    each = 1 + len(found.labels)
    choices = {
        cost: [
            {"visible": [place // each == number for place in range(each * len(shown))]},
            {"xaxis.title.text": COSTS[cost], "xaxis.autorange": True},
        ]
        for number, cost in enumerate(shown)
    }
    return figure, choices


def training(records: list[tuple[Record, str]]) -> go.Figure:
    """Validation score over the compute spent; squares where the resolution was coarse.

    Args:
        records: runs and what to call them.
    """
    figure = go.Figure()
    for number, (record, name) in enumerate(records):
        spent, x, y, shape = 0.0, [], [], []
        for stage in ("pretrain", "finetune"):
            epochs = [row for row in record.history if row["stage"] == stage]
            x += [spent + row["gmac_cum"] / 1000 for row in epochs]
            y += [row["valid_score"] for row in epochs]
            shape += ["square-open" if row["compression"] > 1 else "circle" for row in epochs]
            spent = x[-1] if epochs else spent
        colour = COLOURS[number % len(COLOURS)]
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines+markers",
            name=name,
            line={"color": colour},
            marker={"symbol": shape, "size": 7},
            hovertemplate="%{x:.3g} T: %{y:.1%}",
        )
    axis = {"title": "training so far (TMAC, forward)"}
    return figure.update_layout(xaxis=axis, yaxis=_share_axis("validation score"), showlegend=len(records) > 1)


def confusion(predictions: pl.DataFrame, classes: list[str]) -> go.Figure:
    """Row: true class; column: predicted."""
    counts = np.zeros((len(classes), len(classes)), int)
    place = {name: number for number, name in enumerate(classes)}
    for actual, said in predictions.select("actual", "predicted").rows():
        counts[place[actual], place[said]] += 1
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    text = [[str(count) if count else "" for count in line] for line in counts] if len(classes) <= 40 else None
    figure = go.Figure(
        go.Heatmap(
            z=shares.tolist(),
            x=classes,
            y=classes,
            text=text,
            texttemplate="%{text}" if text else None,
            zmin=0,
            zmax=1,
            colorscale="Blues",
            showscale=False,
            customdata=counts.tolist(),
            hovertemplate="%{y} taken for %{x}: %{customdata} (%{z:.0%})<extra></extra>",
        )
    )
    size = min(900, 160 + 26 * len(classes))
    axes = {
        "xaxis": {"title": "predicted", "type": "category"},
        "yaxis": {"title": "true", "type": "category", "autorange": "reversed"},
    }
    return figure.update_layout(height=size, **axes)
