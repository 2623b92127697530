"""The clip list: a table with one row per clip, written by `download` and read by `features`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import polars as pl

from audiolib.errors import AudiolibError
from audiolib.files import atomic_path, sha256_file

SPLITS = ("train", "valid", "test")
SCHEMA = {
    "id": pl.String,
    "path": pl.String,
    "label": pl.List(pl.String),
    "split": pl.String,
    "fold": pl.Int32,
    "group": pl.String,
    "start": pl.Float64,
    "end": pl.Float64,
    "seconds": pl.Float64,
}


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip to classify.

    `path` is relative to the corpus folder, or absolute for audio that stays where the user keeps it; `group` names
    what must not be spread over splits (a speaker, a recording); `start` and `end` (seconds) cut a piece of the file;
    `seconds` is the clip's length where the corpus knows it, else null.
    """

    id: str
    path: str
    label: tuple[str, ...]
    split: str
    fold: int | None = None
    group: str | None = None
    start: float | None = None
    end: float | None = None
    seconds: float | None = None


def as_table(clips: Iterable[Clip]) -> pl.DataFrame:
    """The table of a corpus that is small enough to be listed clip by clip."""
    rows = list(clips)
    names = [field.name for field in fields(Clip)]
    columns = {name: [getattr(clip, name) for clip in rows] for name in names}
    return pl.DataFrame({**columns, "label": [list(label) for label in columns["label"]]}, schema=SCHEMA)


def as_clips(table: pl.DataFrame) -> Iterator[Clip]:
    """The rows of a table, one by one."""
    for row in table.iter_rows(named=True):
        yield Clip(**{**row, "label": tuple(row["label"])})


def write_clips(path: Path, clips: pl.DataFrame) -> None:
    """Check the table and write it, sorted by id, so that equal corpora give equal bytes.

    Raises:
        AudiolibError: ids repeat, a split is empty, or a class occurs in `valid` or `test` and never in `train`.
    """
    _check(clips)
    with atomic_path(path) as temporary:
        clips.select(list(SCHEMA)).sort("id").write_parquet(temporary, compression="zstd")


def read_clips(path: Path, sha256: str | None = None) -> pl.DataFrame:
    """Read a table that `write_clips` wrote.

    Raises:
        AudiolibError: missing, or its bytes are not those of `sha256`.
    """
    if not path.exists():
        raise AudiolibError(f"{path} is missing; run `dvc repro download`")
    if sha256 not in (None, sha256_file(path)):
        raise AudiolibError(f"{path} is damaged: its sha256 is not that of source.json; run `dvc repro -f download`")
    return pl.read_parquet(path)


def class_names(clips: pl.DataFrame) -> list[str]:
    """All classes, in the order of their numbers."""
    return clips["label"].explode().drop_nulls().unique().sort().to_list()


def _check(clips: pl.DataFrame) -> None:
    twice = clips.filter(pl.col("id").is_duplicated())
    if len(twice):
        raise AudiolibError(f"clip id {twice['id'][0]!r} occurs more than once; every clip needs its own id")
    for split in SPLITS:
        if clips.filter(pl.col("split") == split).is_empty():
            raise AudiolibError(
                f"the {split} split has no clip (of {len(clips)}); give more clips or name the splits in a table"
            )
    pairs = clips.select("id", "split", "label").explode("label")
    trained = pairs.filter(pl.col("split") == "train").select("label").unique()
    lost = pairs.join(trained, on="label", how="anti").sort("id", "label")
    if len(lost):
        name, split, label = lost.row(0)
        raise AudiolibError(
            f"class {label!r} has no training clip ({name} is in {split}); give it at least three clips, and at least "
            "one in the training part of a split or fold column"
        )
    if len(trained) < 2:
        names = ", ".join(sorted(trained["label"].to_list())) or "none"
        raise AudiolibError(f"need at least two classes to classify, found: {names}")
