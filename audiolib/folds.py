"""Cross-validation: runs that differ in their test fold alone are one model, measured on the clips of all folds."""

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
    """One record for each model and seed, on the clips of the folds that all of them were tested on.

    Args:
        records: of one corpus and split, no training twice.

    Returns:
        In the order of the first of each; those of a corpus without folds, or of one and the same fold, as they are.

    Raises:
        AudiolibError: there is no fold that all were tested on, or a clip is in two folds.
    """
    models: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        models[digest(_without_fold(record))].append(record)
    tested = {name: {record.fold for record in own} for name, own in models.items()}
    if not any(fold is not None for folds in tested.values() for fold in folds):
        return records
    shared, every = set.intersection(*tested.values()), set.union(*tested.values())
    for name, folds in tested.items():
        params = models[name][0].settings["params"]
        if not shared:
            raise AudiolibError(
                f"no fold was tested by all models: {params['model']}, seed {params['seed']}, has {_listed(folds)} of "
                f"{_listed(every)}; train the others, too, or name runs of the same folds"
            )
        if folds != every:
            lacking = f"{params['model']}, seed {params['seed']}, lacks fold {_listed(every - folds)}"
            say(f"{lacking}: all are compared on {_listed(shared)} alone")
    return [_joined([record for record in own if record.fold in shared]) for own in models.values()]


def _without_fold(record: Record) -> dict[str, Any]:
    found = training_settings(record.settings)
    return {**found, "data": {**found["data"], "source": {**found["data"]["source"], "fold": None}}}


def _listed(folds: set[int | None]) -> str:
    return ", ".join(sorted(map(str, folds)))


def _joined(records: list[Record]) -> Record:
    """The folds of one model as one record; `passes` keeps them."""
    if len(records) == 1:
        return records[0]
    records = sorted(records, key=lambda record: record.fold or 0)
    first, scores = records[0], pl.concat([record.scores for record in records])
    twice = scores.filter(scores.select("stage", *_CELL[1:-1], "id").is_duplicated())
    if len(twice):
        raise AudiolibError(f"the folds of {first.name} are not apart: clip {twice['id'][0]} was tested twice")
    rows = _pooled(pl.concat([record.rows for record in records]), len(records))
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
            (pl.col("value") * share).sum(),
            half.alias("half"),
            pl.len().alias("folds"),
            pl.col("n").sum(),
            *(pl.col(name).mean() for name in _COSTS),
            *(pl.col(name).first() for name in ("run", "model", "corpus", "split", "seed")),
        )
        .filter(pl.col("folds") == folds)
    )
    ends = [
        wilson_interval(value, n) if metric == "accuracy" else (value - half, value + half)
        for metric, value, half, n in found.select("metric", "value", "half", "n").rows()
    ]
    intervals = pl.DataFrame(ends, schema=["ci_low", "ci_high"], orient="row")
    whole = pl.concat([found, intervals], how="horizontal").with_columns(fold=pl.lit(None))
    return whole.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
