"""Evidence that is kept: `docs/results/<name>.csv`, one row a number, with commit, date, command and machine."""

from pathlib import Path
from typing import Any

import polars as pl

from audiolib.files import lock, scratch_folder, write_text
from audiolib.origin import origin
from audiolib.results import SCHEMA, table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
EVIDENCE = {**SCHEMA, "commit": pl.String, "date": pl.String, "command": pl.String, "machine": pl.String}


def read_evidence(name: str) -> pl.DataFrame:
    """All rows of one file so far."""
    path = RESULTS / f"{name}.csv"
    return pl.read_csv(path, schema=EVIDENCE) if path.exists() else pl.DataFrame(schema=EVIDENCE)


def append_rows(name: str, rows: list[dict[str, Any]], command: str) -> None:
    """Add result rows to a file; it is replaced as a whole, so that a crash leaves the old one."""
    more = table(rows).with_columns(*(pl.lit(value).alias(key) for key, value in origin(command).items()))
    with lock(scratch_folder(ROOT) / "evidence.lock"):
        every = pl.concat([read_evidence(name), more])
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_text(RESULTS / f"{name}.csv", every.write_csv(float_precision=6))
