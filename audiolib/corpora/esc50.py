"""ESC-50: 2,000 environmental clips of 5 s, 50 classes, five official folds. CC BY-NC 3.0.

Origin: github.com/karolpiczak/ESC-50. Pieces of one recording share `src_file` and always lie in one fold.
"""

import csv
from pathlib import Path

import polars as pl

from audiolib.config.corpus import DownloadSection, Esc50Source
from audiolib.corpora.archives import Archive, extract, obtain
from audiolib.corpora.clips import Clip, as_table
from audiolib.corpora.splits import split_groups
from audiolib.errors import AudiolibError

ARCHIVE = Archive(
    url="https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip",
    file="ESC-50-master.zip",
    sha256=None,  # GitHub makes it on demand.
)


def fetch(source: Esc50Source, section: DownloadSection, folder: Path, store: Path) -> pl.DataFrame:
    """Unpack below `folder`; fold `source.fold` is the test, a tenth of the other folds' recordings is validation."""
    extract(obtain(ARCHIVE, section, source.mirrored, store), folder, "ESC-50")
    table = next(folder.rglob("meta/esc50.csv"), None)
    if table is None:
        raise AudiolibError("the ESC-50 archive holds no meta/esc50.csv; is it another archive?")
    with table.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    rest = [(row["category"], row["src_file"]) for row in rows if int(row["fold"]) != source.fold]
    groups = split_groups(rest, valid=0.1, test=0)
    audio = table.parent.parent / "audio"
    return as_table(
        Clip(
            id=row["filename"],
            path=str((audio / row["filename"]).relative_to(folder)),
            label=(row["category"],),
            split="test" if int(row["fold"]) == source.fold else groups[row["src_file"]],
            fold=int(row["fold"]),
            group=row["src_file"],
            seconds=5.0,
        )
        for row in rows
    )
