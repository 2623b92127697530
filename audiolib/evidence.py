"""Evidence that is kept: `docs/results/<name>.csv`, one row a number, with commit, date, command and machine."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import torch

from audiolib.files import lock, scratch_folder, write_text
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


def origin(command: str) -> dict[str, str]:
    """Where a number comes from."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return {"commit": _commit(), "date": date, "command": command, "machine": _machine()}


def _commit() -> str:
    """The commit, with a plus sign if the library or its presets have changes beyond it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "audiolib", "configs") else "")


def _machine() -> str:
    """Threads, cores, processor and accelerator; no host's name."""
    processor, info = platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{torch.get_num_threads()} of {os.cpu_count()} cores, {processor}, {gpu}"
