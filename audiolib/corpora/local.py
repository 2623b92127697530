"""Corpora without a free download: lists in the upstream's own layout, and a folder of the clips that you have.

Clips that a list names and the folder lacks are written to `missing.csv` and tolerated up to a limit.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from audiolib.config.corpus import DownloadSection
from audiolib.corpora.clips import SCHEMA
from audiolib.errors import AudiolibError
from audiolib.files import atomic_path, files_below, is_sound, user_path
from audiolib.progress import say


def corpus_root(corpus: str, section: DownloadSection) -> Path:
    """The folder that holds lists and audio.

    Raises:
        AudiolibError: none is named, or it is not there.
    """
    if not section.folder:
        raise AudiolibError(f"{corpus} has no free download: set download.folder to the folder of its lists and clips")
    root = user_path(section.folder)
    if not root.is_dir():
        raise AudiolibError(f"download.folder: {root} is not a folder")
    return root


def upstream_list(root: Path, name: str, corpus: str) -> Path:
    """A list that the corpus is published with, anywhere below its folder."""
    found = next(iter(sorted(root.rglob(name))), None)
    if found is None:
        raise AudiolibError(f"{root} has no {name}, which {corpus} is published with; put it there")
    return found


def read_list(path: Path, columns: list[str], header: bool, comment: str | None = None) -> pl.DataFrame:
    """A published CSV, all columns as text.

    Raises:
        AudiolibError: not readable as such a table.
    """
    try:
        table = pl.read_csv(
            path, has_header=header, infer_schema=False, comment_prefix=comment, truncate_ragged_lines=False
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise AudiolibError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    if header:
        absent = [name for name in columns if name not in table.columns]
        if absent:
            raise AudiolibError(f"{path} has no column {absent[0]!r}; it has: {', '.join(table.columns)}")
        return table.select(columns)
    if len(table.columns) != len(columns):
        raise AudiolibError(f"{path} has {len(table.columns)} columns, expected {', '.join(columns)}")
    return table.rename(dict(zip(table.columns, columns, strict=True)))


def read_rows(path: Path) -> pl.DataFrame:
    """The lines of a published list that is no plain CSV, but for empty ones: the column `row`.

    Raises:
        AudiolibError: not text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AudiolibError(f"cannot read {path}: {error}") from error
    return pl.DataFrame({"row": lines}, schema={"row": pl.String}).filter(pl.col("row") != "")


def audio_files(root: Path, name_of: Callable[[Path], str]) -> pl.DataFrame:
    """Every audio file below `root`: `key`, which `name_of` makes of it, and `path`; of equal keys the first path."""
    table = pl.DataFrame(_walk(root, name_of), schema={"key": pl.String, "path": pl.String}, orient="row")
    return table.sort("path").unique("key", keep="first", maintain_order=True)


def _walk(root: Path, name_of: Callable[[Path], str]) -> Iterator[tuple[str, str]]:
    for path in filter(is_sound, files_below(root)):
        check_name(path)
        yield name_of(path), str(path)


def check_name(path: Path) -> None:
    """Refuse a name that is no UTF-8, as old archives have them: no table can hold it.

    Raises:
        AudiolibError: it is none.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise AudiolibError(f"{os.fsencode(path)!r} has a name that is not UTF-8; rename it") from error


def with_audio(table: pl.DataFrame, files: pl.DataFrame, max_missing: float, corpus: str, folder: Path) -> pl.DataFrame:
    """The rows whose `key` has a file, as a clip table; what has none is written down and counted.

    Args:
        table: columns of the clip table without `path`, and `key`.
        files: of `audio_files`.
        max_missing: the share of rows that may lack a file.
        corpus: its name, for messages.
        folder: where `missing.csv` is written.

    Raises:
        AudiolibError: more is missing than that.
    """
    absent = [name for name in SCHEMA if name not in table.columns and name != "path"]
    table = table.with_columns(pl.lit(None, dtype=SCHEMA[name]).alias(name) for name in absent)
    joined = table.join(files, on="key", how="left", maintain_order="left")
    missing = joined.filter(pl.col("path").is_null()).select("id", "split").sort("id")
    with atomic_path(folder / "missing.csv") as temporary:
        missing.write_csv(temporary)
    if len(missing):
        said = f"{corpus}: {len(missing):,} of {len(table):,} clips have no audio file"
        if len(missing) > max_missing * len(table):
            raise AudiolibError(
                f"{said}, the first is {missing['id'][0]}; source.max_missing tolerates {max_missing:.0%}: add clips "
                "to download.folder or raise the limit"
            )
        say(f"{said}; they are listed in {folder.name}/missing.csv")
    return joined.filter(pl.col("path").is_not_null()).select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())


def hold_out(groups: pl.Series, share: float) -> pl.Series:
    """Whether each clip is held out for validation: by a hash of its group, the same on every machine and for ever."""
    limit = int(share * 2**32)
    held = {g: int.from_bytes(hashlib.sha256(g.encode()).digest()[:4], "big") < limit for g in groups.unique()}
    return groups.replace_strict(held, return_dtype=pl.Boolean)
