"""The clip list: one row per clip, written by `download` and read by `features`."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from audiolib.errors import AudiolibError
from audiolib.files import atomic_path

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


@dataclass(frozen=True)
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


def write_clips(path: Path, clips: list[Clip]) -> None:
    """Check the list and write it, sorted by id, so that equal corpora give equal bytes.

    Raises:
        AudiolibError: ids repeat, a split is empty, or a class occurs in `valid` or `test` and never in `train`.
    """
    _check(clips)
    rows = sorted(clips, key=lambda clip: clip.id)
    table = pl.DataFrame([{**clip.__dict__, "label": list(clip.label)} for clip in rows], schema=SCHEMA)
    with atomic_path(path) as temporary:
        table.write_parquet(temporary, compression="zstd")


def read_clips(path: Path) -> list[Clip]:
    """Read a list that `write_clips` wrote."""
    if not path.exists():
        raise AudiolibError(f"{path} is missing; run `dvc repro download`")
    rows = pl.read_parquet(path).iter_rows(named=True)
    return [Clip(**{**row, "label": tuple(row["label"])}) for row in rows]


def _check(clips: list[Clip]) -> None:
    ids = [clip.id for clip in clips]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise AudiolibError(f"clip id {twice!r} occurs more than once; every clip needs its own id")
    for split in SPLITS:
        if not any(clip.split == split for clip in clips):
            raise AudiolibError(
                f"the {split} split has no clip (of {len(clips)}); give more clips or name the splits in a table"
            )
    trained = {name for clip in clips if clip.split == "train" for name in clip.label}
    for clip in clips:
        lost = sorted(set(clip.label) - trained)
        if lost:
            raise AudiolibError(
                f"class {lost[0]!r} has no training clip ({clip.id} is in {clip.split}); a class needs at least three "
                "clips, or a split column that puts one into train"
            )
    if len(trained) < 2:
        raise AudiolibError(f"need at least two classes to classify, found: {', '.join(sorted(trained)) or 'none'}")
