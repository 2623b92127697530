"""Evidence that is kept: `docs/results/<name>.csv`, one row a number, and `<name>.runs.csv`, where each run is from.

What all rows of a run share is written once: corpus and seed; commit, date, command and machine; and the precision that
it trained in.
"""

from pathlib import Path
from typing import Any

import polars as pl

from audiolib.files import lock, scratch_folder, write_text
from audiolib.origin import origin
from audiolib.results import SCHEMA, table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
ORIGIN = {"commit": pl.String, "date": pl.String, "command": pl.String, "machine": pl.String, "precision": pl.String}
EVIDENCE = {**SCHEMA, **ORIGIN}
# A model is told, too: two models of a study that share a recipe share the run.
_KEY = ["run", "model"]
_TASK = ["model", "corpus", "seed"]
_SHARED = ["stage", "corpus", "seed", *ORIGIN]
_RUNS = {column: EVIDENCE[column] for column in _KEY + _SHARED}
_ROWS = {column: kind for column, kind in SCHEMA.items() if column not in _SHARED}


def read_evidence(name: str) -> pl.DataFrame:
    """All rows of one file so far."""
    rows, runs = (_read(RESULTS / file, kinds) for file, kinds in _files(name))
    return rows.join(runs, on=_KEY, how="left", maintain_order="left").select(list(EVIDENCE))


def append_rows(name: str, rows: list[dict[str, Any]], command: str, precision: str) -> None:
    """Add the result rows of one run, or put them in the place of older ones of it, trained in either precision; files
    are replaced as a whole, so that a crash leaves the old ones.
    """
    known = {**origin(command), "precision": precision}
    more = table(rows).with_columns(*(pl.lit(value).alias(key) for key, value in known.items()))
    with lock(scratch_folder(ROOT) / "evidence.lock"):
        every, own = read_evidence(name), more.select(_TASK).unique()
        kept = every.join(own, on=_TASK, how="anti", maintain_order="left")
        place = every.with_row_index().join(own, on=_TASK, how="semi")["index"].min()
        place = len(kept) if place is None else place
        write_evidence(name, pl.concat([kept[:place], more, kept[place:]]))


def write_evidence(name: str, every: pl.DataFrame) -> None:
    """Replace what is kept; first where runs are from: of a run without rows a crash leaves no more than that."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for file, kinds in reversed(_files(name)):
        part = every.select(list(kinds))
        part = part.unique(maintain_order=True) if kinds is _RUNS else part
        write_text(RESULTS / file, part.with_columns(pl.col(pl.Float64).round(6)).write_csv())


def _files(name: str) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{name}.csv", _ROWS), (f"{name}.runs.csv", _RUNS)]


def _read(path: Path, kinds: dict[str, Any]) -> pl.DataFrame:
    return pl.read_csv(path, schema=kinds) if path.exists() else pl.DataFrame(schema=kinds)
