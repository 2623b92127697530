"""The tables of a report: one line a cell, a model, or a pair of models."""

from typing import Any

import polars as pl

from audiolib.compare import Comparison, summaries
from audiolib.page import Section, Table

LOW_HIGH = "Low and high: of one seed the 95 % interval over clips, of several one standard deviation around the mean."


def cells_table(found: Comparison, cells: pl.DataFrame) -> Table:
    """Cells with their intervals and costs."""
    columns = ["model*", "patch*", "s", "hop ms", found.metric, "low", "high", "tokens", "GMAC", "ms", "MiB"]
    rows = [
        [
            row["label"],
            f"{row['patch_f']} x {row['patch_t']}",
            row["seconds"],
            row["hop_ms"],
            *(row[name] for name in ("value", "low", "high", "tokens", "gmac", "ms", "mib")),
        ]
        for row in cells.rows(named=True)
    ]
    return Table(columns, rows, ["s", "s", "g", "g", ".3f", ".3f", ".3f", ".0f", ".4f", ".2f", ".2f"])


def all_cells(found: Comparison) -> Section:
    """Every cell of every model."""
    text = f"Everything that was measured; costs are those of one clip. {LOW_HIGH} Click on a title to sort."
    return Section("All cells", text, table=cells_table(found, found.cells()), folded=True)


def ranking(found: Comparison) -> Table:
    """One row a model, the best first: at home, along the axes, and its cost at home."""
    columns = ["model*", "seeds", f"{found.metric} at home", "low", "high", "mean over patches", "worst patch"]
    columns += ["mean over lengths", "mean over hops", "tokens", "GMAC", "ms", "MiB"]
    names = ["label", "seeds", "home", "low", "high", "patch_mean", "patch_worst", "length_mean", "hop_mean"]
    names += ["tokens", "gmac", "ms", "mib"]
    rows = [[row[name] for name in names] for row in sorted(summaries(found), key=lambda row: -row["home"])]
    return Table(columns, rows, ["s", "d", *[".3f"] * 7, ".0f", ".4f", ".2f", ".2f"])


def side_by_side(found: Comparison) -> Section:
    """One line a model."""
    text = f"At home is the patch size, length and hop of the last training; costs are those of one clip. {LOW_HIGH}"
    return Section("Side by side", text, table=ranking(found))


def pairs(found: Comparison) -> Section:
    """One line a pair of models and place: how far apart they are, and whether that is chance."""
    places = {"at home": None, "mean over patches": "patch", "mean over lengths": "length", "mean over hops": "hop"}
    rows: list[list[Any]] = [
        [one, other, place, 100 * d.mean, 100 * d.low, 100 * d.high, d.p, d.corrected, d.test]
        for place, axis in places.items()
        for one, other, d in found.differences(axis)
    ]
    several = found.metric == "map"
    points = f"points of {'label ranking' if several else found.metric}"
    columns = ["better*", "worse*", "where*", points, "low", "high", "p", "p, all pairs", "test*"]
    text = (
        "The same clips, one model against the other: how many points the first is ahead, its 95 % interval, and "
        "how often chance alone would make such a difference (p; among all pairs of one place, by Holm's method, if "
        "you look for the clearest). With several seeds chance is in the clips and in the training; few seeds tell "
        "their spread badly, which makes the interval wide. A model of a single seed is given the other's spread; "
        "where both have one, the answer holds for these trained weights, not for their recipes."
    )
    if several:
        text += (
            " A clip has no mAP, which is a mean over classes: what is tested is how far up each clip's own labels are "
            "in its scores (label ranking average precision). Who leads in mAP may be behind in that."
        )
    return Section(
        "Is the difference real?", text, table=Table(columns, rows, [*"sss", "+.1f", "+.1f", "+.1f", ".4f", ".4f", "s"])
    )
