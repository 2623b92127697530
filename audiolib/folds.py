"""Cross-validation: runs that differ in their test fold alone are one model, measured on the clips of all folds."""

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import polars as pl

from audiolib.errors import AudiolibError
from audiolib.files import digest
from audiolib.intervals import wilson_interval
from audiolib.progress import say
from audiolib.record import Record, training_settings
from audiolib.results import SCHEMA

_CELL = ["stage", "patch_f", "patch_t", "seconds", "hop_ms", "metric"]
_COSTS = ["gmac", "ms", "tokens", "mib"]


def join_folds(records: list[Record]) -> list[Record]:
    """One record for each model and seed, on the clips of all folds; one that lacks a fold is left out, and said.

    Args:
        records: of one corpus and split, no training twice.

    Returns:
        In the order of the first of each; all as they are where none has a fold.

    Raises:
        AudiolibError: none was tested on all folds, a clip is in two folds, or folds have no cell in common.
    """
    if all(record.fold is None for record in records):
        return records
    models: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.fold is None:
            say(f"{record.name} was not tested on a fold as others were, and is left out")
        else:
            models[digest(_without_fold(record))].append(record)
    folds = {record.fold for own in models.values() for record in own}
    lacking = {name: folds - {record.fold for record in own} for name, own in models.items()}
    told = {name: f"{_model(models[name][0])} lacks fold {_listed(few)}" for name, few in lacking.items() if few}
    if len(told) == len(models):
        raise AudiolibError(
            f"no model was tested on all folds {_listed(folds)}: {'; '.join(told.values())}; train what is lacking, or "
            "name runs of the same folds"
        )
    for words in told.values():
        say(f"{words}, and is left out; to compare fewer folds name their runs")
    return [_joined(own) for name, own in models.items() if name not in told]


def _model(record: Record) -> str:
    params = record.settings["params"]
    return f"{params['model']}, seed {params['seed']},"


def _without_fold(record: Record) -> dict[str, Any]:
    found = training_settings(record.settings)
    return {**found, "data": {**found["data"], "source": {**found["data"]["source"], "fold": None}}}


def _listed(folds: set[int | None]) -> str:
    return ", ".join(map(str, sorted(fold for fold in folds if fold is not None)))


def _joined(records: list[Record]) -> Record:
    """The folds of one model as one record; `passes` keeps them."""
    if len(records) == 1:
        return records[0]
    records = sorted(records, key=lambda record: record.fold or 0)
    first, scores = records[0], pl.concat([record.scores for record in records])
    twice = scores.filter(scores.select("stage", *_CELL[1:-1], "id").is_duplicated())
    if len(twice):
        raise AudiolibError(f"the folds of {_model(first)} are not apart: clip {twice['id'][0]} was tested twice")
    rows = _pooled(pl.concat([record.rows for record in records]), len(records))
    if rows.is_empty():
        raise AudiolibError(f"the folds of {_model(first)} were measured at different shapes; evaluate them alike")
    data = first.settings["data"]
    folds = {**data, "source": {**data["source"], "fold": [record.fold for record in records]}}
    name = f"{first.name} and {len(records) - 1} more folds"
    return replace(
        first, name=name, rows=rows, scores=scores, settings={**first.settings, "data": folds}, parts=tuple(records)
    )


def _pooled(rows: pl.DataFrame, folds: int) -> pl.DataFrame:
    """Rows over all folds of the cells that each has: a fold counts by its clips.

    Accuracy is then that over all clips together, and has their Wilson interval. Of metrics that rank clips against
    each other this is the mean over folds, whose models' scores are not of one scale; its interval is that of a mean of
    independent parts.
    """
    share = pl.col("n") / pl.col("n").sum()
    half = ((pl.col("ci_high") - pl.col("ci_low")) / 2 * share).pow(2).sum().sqrt()
    found = (
        rows.group_by(_CELL, maintain_order=True)
        .agg(
            # Rounded: equal counts of right clips are equal, however they lie in folds.
            ((pl.col("value") * pl.col("n")).sum() / pl.col("n").sum()).round(12),
            half.alias("half"),
            pl.len().alias("folds"),
            pl.col("n").sum(),
            *(pl.col(name).mean() for name in _COSTS),
            *(pl.col(name).first() for name in ("run", "model", "corpus", "split", "seed")),
        )
        .filter(pl.col("folds") == folds)
    )
    ends = [_interval(*row) for row in found.select("metric", "value", "half", "n").rows()]
    intervals = pl.DataFrame(ends, schema=["ci_low", "ci_high"], orient="row")
    whole = pl.concat([found, intervals], how="horizontal").with_columns(fold=pl.lit(None))
    return whole.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())


def _interval(metric: str, value: float, half: float, clips: int) -> tuple[float, float]:
    if metric == "accuracy":
        return wilson_interval(value, clips)
    least, most = (0.0, 1.0) if metric == "map" else (-math.inf, math.inf)
    return max(least, value - half), min(most, value + half)
