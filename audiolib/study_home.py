"""Where a run of a study is at home, how good it is there, and what it cost to train."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from audiolib.config.corpus import DataPreset, FeaturesSection
from audiolib.config.strict import read_yaml, validate
from audiolib.config.study import Study, StudyRun
from audiolib.evidence import ROOT
from audiolib.results import as_size, ended_at


@dataclass(frozen=True)
class StudyHome:
    """The patch size, clip length and hop that a run was trained at, as columns of its rows."""

    patch_f: int
    patch_t: int
    seconds: float
    hop_ms: float

    @property
    def patch(self) -> tuple[int, int]:
        """(mel bands, frames)."""
        return self.patch_f, self.patch_t


def home_of(run: StudyRun, corpus: str) -> StudyHome:
    """A model of several sizes is at home at 16 x 16, where its kernel is stored."""
    data = _data(corpus)
    own = getattr(data.source, "frontend", None) or FeaturesSection(**read_yaml(ROOT / "params.yaml")["features"])
    patch, hop = ended_at(_phases(run), as_size(run.architecture.get("patch", 16)), float(own.hop_ms))
    return StudyHome(*patch, run.seconds or data.seconds, hop)


def _phases(run: StudyRun) -> list[dict[str, Any]]:
    """Those of the run, else of its preset."""
    preset = read_yaml(ROOT / "configs" / "model" / f"{run.preset}.yaml")
    return list(run.recipe.get("phases") or preset["finetune"]["phases"])


def _data(corpus: str) -> DataPreset:
    return validate(DataPreset, read_yaml(ROOT / "configs" / "data" / f"{corpus}.yaml"), corpus)


def at_home(rows: pl.DataFrame, run: StudyRun, corpus: str) -> pl.DataFrame:
    """The accuracy rows of a run at its home, one for each seed."""
    here = [(pl.col(column) - value).abs() < 1e-6 for column, value in vars(home_of(run, corpus)).items()]
    return rows.filter(
        (pl.col("corpus") == corpus) & (pl.col("model") == run.name), pl.col("metric") == "accuracy", *here
    )


def epochs_of(study: Study, run: StudyRun, corpus: str) -> str:
    """Epochs of each phase, those of the run that it starts from before them: `4 + 18, then 60`."""
    scale = _data(corpus).epochs_scale
    told = " + ".join(str(phase["epochs"] * scale) for phase in _phases(run))
    return told if run.start is None else f"{epochs_of(study, study.run(run.start), corpus)}, then {told}"


def training_cost(study: Study, rows: pl.DataFrame, run: StudyRun, metric: str) -> float | None:
    """`train_gmac`, `train_tokens` or `train_seconds` of a run and of the runs that it starts from, mean over seeds;
    null where one of them was not measured.

    Args:
        study: the study.
        rows: its rows on one corpus.
        run: which run.
        metric: which cost.
    """
    own = rows.filter((pl.col("model") == run.name) & (pl.col("metric") == metric))["value"]
    before = 0.0 if run.start is None else training_cost(study, rows, study.run(run.start), metric)
    return None if own.is_empty() or before is None else float(own.mean()) + before


def timed_alike(study: Study, rows: pl.DataFrame) -> tuple[pl.DataFrame, str | None]:
    """Rows with the seconds of training of one machine in one precision alone, and these two in words: those that tell
    the cost of the most runs, with the runs that they start from; null where none tells any.

    Args:
        study: the study.
        rows: its rows on one corpus.
    """
    seconds = pl.col("metric") == "train_seconds"
    found: tuple[int, pl.DataFrame, str | None] = (0, rows.filter(~seconds), None)
    for machine, precision in rows.filter(seconds).select("machine", "precision").unique().sort(pl.all()).rows():
        own = rows.filter(~seconds | ((pl.col("machine") == machine) & (pl.col("precision") == precision)))
        told = sum(training_cost(study, own, run, "train_seconds") is not None for run in study.runs)
        if told > found[0]:
            found = told, own, f"{machine}, in {precision}"
    return found[1:]
