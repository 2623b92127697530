"""The record of one evaluation: a folder with `rows.parquet`, `scores.parquet`, `run.json` and `history.csv`, as the
evaluate stage leaves them and MLflow keeps them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from audiolib.errors import AudiolibError
from audiolib.results import Home, home, read_rows

RECORD = ("rows.parquet", "scores.parquet", "run.json", "history.csv")


@dataclass(frozen=True)
class Record:
    """One pass through the pipeline, or one for each fold of a cross-validation, joined (`folds.join_folds`).

    Attributes:
        name: what it is called.
        rows: see `results.SCHEMA`.
        scores: see `results.SCORES`.
        settings: params and presets that made it.
        origin: code, date and machine.
        history: training, a row an epoch.
        parts: of a joined one the records of its folds.
    """

    name: str
    rows: pl.DataFrame
    scores: pl.DataFrame
    settings: dict[str, Any]
    origin: dict[str, str]
    history: list[dict[str, Any]]
    parts: tuple["Record", ...] = ()

    @property
    def passes(self) -> tuple["Record", ...]:
        """The passes through the pipeline that it is made of."""
        return self.parts or (self,)

    @property
    def fold(self) -> int | None:
        """The fold that was tested, of one pass on a corpus with folds."""
        return None if self.parts else self.settings["data"]["source"].get("fold")

    @property
    def home(self) -> Home:
        """Where its models are at home."""
        return home(self.settings)

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.settings["params"]["seed"])


def read_record(folder: Path, name: str | None = None) -> Record:
    """A record from its folder.

    Raises:
        AudiolibError: the folder is not one.
    """
    rows = read_rows(folder)
    try:
        scores = pl.read_parquet(folder / "scores.parquet")
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        history = folder / "history.csv"
        epochs = pl.read_csv(history).rows(named=True) if history.exists() and history.stat().st_size else []
    except (FileNotFoundError, ValueError) as error:
        raise AudiolibError(f"{folder} is not a record of an evaluation: {error}") from error
    return Record(name or str(folder), rows, scores, run["settings"], run["origin"], epochs)


def training_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Of a pass' settings those that decide which model comes out: not how it was computed, measured or reported."""
    params = settings["params"]
    numbers = {key: params["train"].get(key) for key in ("start", "precision")}
    data = {key: value for key, value in settings["data"].items() if key != "eval_seconds"}
    # No fold is what a record says that is older than the setting.
    data["source"] = {key: value for key, value in data["source"].items() if (key, value) != ("fold", None)}
    return {"model": settings["model"], "data": data, "seed": params["seed"],
            "features": params["features"], "train": numbers}  # fmt: skip
