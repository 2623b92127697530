"""Recorded runs side by side: models under one name over all seeds, on the same clips.

The report of a single run is a comparison of the models that its stages have trained.
"""

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from audiolib.errors import AudiolibError
from audiolib.files import digest
from audiolib.folds import join_folds
from audiolib.intervals import Difference, holm, paired_difference
from audiolib.progress import say
from audiolib.record import Record, training_settings
from audiolib.results import AXES, at_home, at_own_patch, main_metric, matrix

_CELL = ["stage", "patch_f", "patch_t", "seconds", "hop_ms"]


@dataclass(frozen=True)
class Comparison:
    """Several records of one corpus.

    Attributes:
        records: with the labels of their models: (record, {stage: label}). Equal labels are seeds of one model.
        metric: what models are judged by.
        corpus: its name; `split` what was measured; `clips` how many.
    """

    records: list[tuple[Record, dict[str, str]]]
    metric: str
    corpus: str
    split: str
    clips: int

    @property
    def labels(self) -> list[str]:
        """Of all models, in the order of the records."""
        return list(dict.fromkeys(label for _, labels in self.records for label in labels.values()))

    @property
    def passes(self) -> list[tuple[Record, dict[str, str]]]:
        """The passes through the pipeline that the records are made of: one, or one a fold."""
        return [(one, labels) for record, labels in self.records for one in record.passes]

    def cells(self) -> pl.DataFrame:
        """The main metric of every cell of every model with a column `label`; means over seeds (`_over_seeds`)."""
        own = [self._labelled(record.rows, labels) for record, labels in self.records]
        return _over_seeds(pl.concat(own).filter(pl.col("metric") == self.metric))

    def line(self, axis: str) -> pl.DataFrame:
        """The main metric of every model along `patch`, `length` or `hop`, the rest being where it is at home."""
        own = [self._labelled(at_home(record.rows, axis, record.home), labels) for record, labels in self.records]
        return _over_seeds(pl.concat(own)).sort("label", *AXES[axis])

    def shared(self, axis: str) -> pl.DataFrame:
        """The places along an axis that every model was measured at, with each of its seeds: means are over these."""
        own = [
            self._labelled(at_home(record.rows, axis, record.home), labels).select("label", *AXES[axis]).unique()
            for record, labels in self.records
        ]
        wanted = sum(len(labels) for _, labels in self.records)
        return pl.concat(own).group_by(AXES[axis]).len().filter(pl.col("len") == wanted).drop("len")

    def _labelled(self, rows: pl.DataFrame, labels: dict[str, str]) -> pl.DataFrame:
        kept = rows.filter(pl.col("stage").is_in(list(labels)))
        return kept.with_columns(pl.col("stage").replace_strict(labels, default=None).alias("label"))

    def matrix(self, label: str) -> tuple[list[str], list[float], list[list[float | None]]]:
        """Patch x length of one model at the hop it was trained at, see `results.matrix`."""
        hops = {name: record.home.hop_ms[stage] for record, own in self.records for stage, name in own.items()}
        return matrix(self.cells().filter((pl.col("label") == label) & ((pl.col("hop_ms") - hops[label]).abs() < 1e-6)))

    def clip_scores(self, axis: str | None) -> dict[str, np.ndarray]:
        """(seeds, clips) scores of every model: at home, or means along an axis; clips in one order."""
        found: dict[str, list[np.ndarray]] = {}
        for record, labels in self.records:
            places = at_home(record.rows, axis or "patch", record.home)
            if axis is not None:
                places = places.join(self.shared(axis), on=AXES[axis], how="semi")
            else:
                places = at_own_patch(places, record.home)
            scores = record.scores.join(places.select(_CELL), on=_CELL, how="semi")
            means = scores.group_by("stage", "id").agg(pl.col("score").mean()).sort("id")
            for stage, label in labels.items():
                own_scores = means.filter(pl.col("stage") == stage)["score"].to_numpy().astype(np.float64)
                if len(own_scores):
                    found.setdefault(label, []).append(own_scores)
        return {label: np.stack(scores) for label, scores in found.items()}

    def differences(self, axis: str | None) -> list[tuple[str, str, Difference]]:
        """Every pair of models, compared clip by clip; the better one first, the clearest pair first."""
        scores = self.clip_scores(axis)
        found, pairs = [], list(combinations(scores, 2))
        for first, second in pairs:
            one, other = (first, second) if scores[first].mean() >= scores[second].mean() else (second, first)
            found.append((one, other, paired_difference(scores[one], scores[other], len(pairs))))
        corrected = holm([difference.p for _, _, difference in found])
        told = [(*pair, replace(d, corrected=p)) for (*pair, d), p in zip(found, corrected, strict=True)]
        return sorted(told, key=lambda pair: pair[2].p)


def compare(records: list[Record], stages: list[str] | None = None) -> Comparison:
    """Put records side by side.

    Args:
        records: of runs on the same corpus; those that differ in their test fold alone are joined.
        stages: of these; null = what each run ended with (`finetune`).

    Raises:
        AudiolibError: there is none, or they measured different corpora, splits or clips.
    """
    if not records:
        raise AudiolibError("there is nothing to compare; `dvc repro` or `dvc exp run` records a run")
    first = records[0]
    for record in records[1:]:
        for column in ("corpus", "split"):
            if record.rows[column][0] != first.rows[column][0]:
                raise AudiolibError(
                    f"{record.name} measured {column} {record.rows[column][0]}, {first.name} {first.rows[column][0]}; "
                    "only runs on the same clips can be compared"
                )
    records = join_folds(_once(records))
    first = records[0]
    for record in records[1:]:
        other = set(record.scores["id"]) ^ set(first.scores["id"])
        if other:
            raise AudiolibError(
                f"{record.name} and {first.name} measured different clips of {first.rows['corpus'][0]}: "
                f"{len(other)} are in one only, {min(other)} for example"
            )
    records = _timed_alike(records)
    labelled = [(record, labels) for record, labels in zip(records, _labels(records, stages), strict=True) if labels]
    rows = first.rows
    return Comparison(labelled, main_metric(rows), rows["corpus"][0], rows["split"][0], int(rows["n"][0]))


def _training(record: Record) -> str:
    """What tells trainings apart: settings, and clips, for two folders of one's own may have equal settings."""
    return digest([training_settings(record.settings), sorted(set(record.scores["id"]))])


def _once(records: list[Record]) -> list[Record]:
    """Without those that measure a training again: it would count as another seed."""
    newest: dict[str, Record] = {}
    for record in records:
        key = _training(record)
        if key in newest:
            say(f"{newest[key].name} and {record.name} are the same training; the second is shown")
        newest[key] = record
    return list(newest.values())


def _timed_alike(records: list[Record]) -> list[Record]:
    """With the milliseconds of the machine alone that measured most of them: a mean over two, or the faster of two
    models on two, would mean nothing.
    """
    machines = [one.origin["machine"] for record in records for one in record.passes]
    most = max(machines, key=machines.count)
    others = [record for record in records if any(one.origin["machine"] != most for one in record.passes)]
    if others:
        say(f"milliseconds are those of {most}; {', '.join(record.name for record in others)} ran elsewhere")
    untimed = {id(record) for record in others}
    nothing = pl.lit(None, pl.Float64).alias("ms")
    return [replace(r, rows=r.rows.with_columns(nothing)) if id(r) in untimed else r for r in records]


def with_record(records: list[Record], own: Record, corpus: str | None) -> list[Record]:
    """Records and one more, unless they have its training, or it is not on the corpus that was asked for."""
    known = {_training(record) for record in records}
    if _training(own) in known or corpus not in (None, own.rows["corpus"][0]):
        return records
    return [*records, own]


def _labels(records: list[Record], stages: list[str] | None) -> list[dict[str, str]]:
    """For each record the label of each of its stages: its preset's name; a number where equal names differ in more
    than the seed.
    """
    kinds: dict[str, list[str]] = {}
    found = []
    for record in records:
        params = record.settings["params"]
        kind = digest({**training_settings(record.settings), "seed": None})
        same = kinds.setdefault(params["model"], [])
        if kind not in same:
            same.append(kind)
        number = same.index(kind)
        name = params["model"] if number == 0 else f"{params['model']} ({number + 1})"
        there = set(record.rows["stage"])
        found.append({s: name if s == "finetune" else f"{name}, {s}" for s in stages or ["finetune"] if s in there})
    return found


def _over_seeds(rows: pl.DataFrame) -> pl.DataFrame:
    """One row a cell and label: means, `seeds`, and `low` and `high`: the clips' 95 % interval of a single seed, or one
    standard deviation over several.
    """
    cell = ["label", "patch_f", "patch_t", "seconds", "hop_ms"]
    costs = [pl.col(name).mean() for name in ("gmac", "ms", "tokens", "mib")]
    value, spread = pl.col("value"), pl.col("value").std()
    low = pl.when(value.len() > 1).then(value.mean() - spread).otherwise(pl.col("ci_low").first())
    high = pl.when(value.len() > 1).then(value.mean() + spread).otherwise(pl.col("ci_high").first())
    found = rows.group_by(cell, maintain_order=True).agg(
        low.alias("low"), high.alias("high"), value.mean(), value.len().alias("seeds"), pl.col("n").first(), *costs
    )
    return found.sort("label", "patch_f", "patch_t", "seconds", "hop_ms", maintain_order=True)


def summaries(found: Comparison) -> list[dict[str, Any]]:
    """One row a model: at home, means along the axes and the worst patch, where all were measured, and cost at home."""
    lines = {axis: found.line(axis) for axis in AXES}
    shared = {axis: line.join(found.shared(axis), on=AXES[axis], how="semi") for axis, line in lines.items()}
    homes = {label: record.home.patch[s] for record, labels in found.records for s, label in labels.items()}
    table = []
    for label in found.labels:
        own = {axis: line.filter(pl.col("label") == label) for axis, line in shared.items()}
        patch, every = homes[label], lines["patch"].filter(pl.col("label") == label)
        there = every.filter((pl.col("patch_f") == patch[0]) & (pl.col("patch_t") == patch[1]))
        row = there.rows(named=True)[0]
        table.append(
            {
                "label": label,
                "seeds": row["seeds"],
                "home": row["value"],
                "low": row["low"],
                "high": row["high"],
                **{f"{axis}_mean": line["value"].mean() for axis, line in own.items()},
                "patch_worst": own["patch"]["value"].min(),
                **{name: row[name] for name in ("tokens", "gmac", "ms", "mib")},
            }
        )
    return table
