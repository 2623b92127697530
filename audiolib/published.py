"""What the papers report, to be drawn beside what is measured here: `published.csv`, each number with its source."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

_FILE = Path(__file__).parent / "published.csv"
_PLACES = {"patch": "patch", "length": "seconds", "hop": "hop_ms"}


@dataclass(frozen=True)
class Line:
    """A published curve: `values` at `places` of an axis."""

    label: str
    places: list[float]
    values: list[float]


def published(corpus: str, metric: str) -> pl.DataFrame:
    """Every published number of a metric (a share, not per cent) on the test clips of a corpus.

    Columns: paper, source, model, patch, seconds, hop_ms, value, deviation over seeds; null where a paper does not say.
    """
    numbers = ("patch", "seconds", "hop_ms", "value", "deviation")
    rows = pl.read_csv(_FILE, schema_overrides=dict.fromkeys(numbers, pl.Float64))
    return rows.filter((pl.col("corpus") == corpus) & (pl.col("metric") == metric)).drop("corpus", "metric")


def curves(corpus: str, metric: str, axis: str) -> list[Line]:
    """Published models that were measured at several places of `patch`, `length` or `hop`."""
    place, found = _PLACES[axis], []
    for (paper, model), own in published(corpus, metric).group_by("paper", "model", maintain_order=True):
        known = own.filter(pl.col(place).is_not_null()).sort(place)
        if known[place].n_unique() > 1:
            label = str(model) if str(paper) == str(model) else f"{model} ({paper})"
            found.append(Line(f"published: {label}", known[place].to_list(), known["value"].to_list()))
    return found


def single(corpus: str, metric: str) -> pl.DataFrame:
    """Published models with one number, at a shape of their own; the best first."""
    rows = published(corpus, metric).filter(pl.col("seconds").is_null() & pl.col("hop_ms").is_null())
    return rows.filter(pl.col("patch").n_unique().over("paper", "model") == 1).sort("value", descending=True)
