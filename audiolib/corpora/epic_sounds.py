"""EPIC-SOUNDS: 44 classes of sounds of kitchen work, pieces of long recordings, 0.1 s to minutes. CC BY-NC 4.0.

Origin: github.com/epic-kitchens/epic-sounds-annotations. `download.folder` holds `EPIC_Sounds_train.csv` and
`EPIC_Sounds_validation.csv`, and anywhere below it the sound of each video as `<video>.wav` (or another audio suffix).
The official validation list is the test, as in the papers (the labels of the official test are not public); a share of
the training videos is held out for validation. It has its own front end: see `configs/data/epic_sounds.yaml`.
"""

from pathlib import Path

import polars as pl

from audiolib.config.corpus import DownloadSection, EpicSoundsSource
from audiolib.corpora.local import audio_files, corpus_root, hold_out, read_list, upstream_list, with_audio
from audiolib.errors import AudiolibError

_COLUMNS = ["annotation_id", "video_id", "start_timestamp", "stop_timestamp", "class"]


def fetch(source: EpicSoundsSource, section: DownloadSection, folder: Path, store: Path) -> pl.DataFrame:
    """List the annotated pieces of the recordings that are in `download.folder`; nothing is copied."""
    root = corpus_root("EPIC-SOUNDS", section)
    train, test = (_annotations(root, f"EPIC_Sounds_{part}.csv") for part in ("train", "validation"))
    held = hold_out(train["group"], source.valid_fraction)
    train = train.with_columns(split=pl.when(held).then(pl.lit("valid")).otherwise(pl.lit("train")))
    table = pl.concat([train, test.with_columns(split=pl.lit("test"))])
    return with_audio(table, audio_files(root, lambda path: path.stem), source.max_missing, "EPIC-SOUNDS", folder)


def _annotations(root: Path, name: str) -> pl.DataFrame:
    path = upstream_list(root, name, "EPIC-SOUNDS")
    rows = read_list(path, _COLUMNS, header=True)
    table = rows.select(
        id="annotation_id",
        key="video_id",
        label=pl.concat_list("class"),
        group="video_id",
        start=_seconds("start_timestamp"),
        end=_seconds("stop_timestamp"),
    ).with_columns(seconds=pl.col("end") - pl.col("start"))
    bad = table.filter(pl.col("seconds").is_null() | (pl.col("seconds") <= 0) | pl.col("label").list.contains(None))
    if len(bad):
        raise AudiolibError(
            f"{path}: annotation {bad['id'][0]} has no class, or times that are not HH:MM:SS.mmm in order"
        )
    return table


def _seconds(column: str) -> pl.Expr:
    """HH:MM:SS.mmm as seconds; null for anything else."""
    part = pl.col(column).str.extract_groups(r"^(?<h>\d+):(?<m>\d{2}):(?<s>\d{2}(?:\.\d+)?)$")
    hours, minutes, rest = (part.struct.field(name).cast(pl.Float64) for name in "hms")
    return 3600 * hours + 60 * minutes + rest
