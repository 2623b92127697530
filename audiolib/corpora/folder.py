"""Your own clips, left where they are: one folder per class, or a table with a row per clip."""

import math
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import polars as pl

from audiolib.config.corpus import DownloadSection, FolderSource
from audiolib.corpora.clips import SPLITS, Clip, as_table
from audiolib.corpora.local import check_name
from audiolib.corpora.splits import split_groups
from audiolib.errors import AudiolibError
from audiolib.files import SOUND_SUFFIXES, files_below, is_sound, user_path
from audiolib.progress import say

_OPTIONAL = ("split", "fold", "group", "start", "end")


def fetch(source: FolderSource, section: DownloadSection, folder: Path, store: Path) -> pl.DataFrame:
    """List the clips of `download.folder`; nothing is copied.

    Raises:
        AudiolibError: no such folder or table, a column, label or fold is missing, a class is too small to be split, or
            a group is in two folds.
    """
    if not section.folder:
        raise AudiolibError("data=folder needs the path of your clips: set download.folder")
    root = user_path(section.folder)
    if not root.is_dir():
        raise AudiolibError(f"download.folder: {root} is not a folder")
    rows = _table(root, source.table, source) if source.table else _class_folders(root)
    if source.fold is not None:
        _give_folds(rows, source, source.fold)
    elif not any(row.get("split") for row in rows):
        _give_splits(rows, source)
    return as_table(_clip(row, root) for row in rows)


def _class_folders(root: Path) -> list[dict[str, Any]]:
    """The clips of every folder, and a line of what was found and what was not."""
    clips: Counter[str] = Counter()
    others: dict[str, Counter[str]] = {}
    files: list[Path] = []
    for path in (found for found in files_below(root) if found.parent != root):
        name = path.relative_to(root).parts[0]
        if is_sound(path):
            check_name(path)
            files.append(path)
            clips[name] += 1
        else:
            others.setdefault(name, Counter())[path.suffix.lower() or path.name] += 1
    if not files:
        raise AudiolibError(f"{root} has no <class>/<clip> with a suffix among {' '.join(SOUND_SUFFIXES)}")
    for name in sorted(others.keys() - clips.keys()):
        suffix, count = others[name].most_common(1)[0]
        raise AudiolibError(
            f"{root / name} has no clip: {count} of its files are {suffix}, and what can be read is "
            f"{' '.join(SOUND_SUFFIXES)}; convert them, or move the folder away"
        )
    left = sum(others.values(), Counter())
    say(
        f"{len(files):,} clips in {len(clips)} classes: {', '.join(f'{name} {n}' for name, n in sorted(clips.items()))}"
        + (f"; left out: {', '.join(f'{n} {suffix}' for suffix, n in left.most_common())}" if left else "")
    )
    return [{"path": str(p.relative_to(root)), "label": (p.relative_to(root).parts[0],)} for p in files]


def _table(root: Path, name: str, source: FolderSource) -> list[dict[str, Any]]:
    path = root / name
    try:
        table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AudiolibError(f"cannot read the table {path}: {reason}") from error
    for column in ("path", "label"):
        if column not in table.columns:
            names = ", ".join(table.columns)
            hint = "; save it as UTF-8" if "\x00" in names else ""
            raise AudiolibError(f"{path} has no column {column!r}; it has: {names.replace(chr(0), '')}{hint}")
    rows = table.select([c for c in ("path", "label", *_OPTIONAL) if c in table.columns]).rows(named=True)
    numbered = [(n, row) for n, row in enumerate(rows, start=2) if {*map(str, row.values())} - {"None", ""}]
    for number, row in numbered:
        _check_row(row, f"{path}, line {number}", source)
        row["path"] = _spelled(row["path"], root)
    rows = [row for _, row in numbered]
    unsplit = [row["path"] for row in rows if not row.get("split")]
    if len(unsplit) not in (0, len(rows)):
        raise AudiolibError(f"{path}: {len(unsplit)} rows have no split, the first is {unsplit[0]}; give all or none")
    _keep_groups_whole(rows, "split", str(path))
    return rows


def _spelled(name: str, root: Path) -> str:
    """A path in one spelling: clips that are the same file must not lie on two sides of a split."""
    name = os.path.normpath(name)
    return os.path.relpath(name, root) if Path(name).is_relative_to(root) else name


def _keep_groups_whole(rows: list[dict[str, Any]], column: str, where: str) -> None:
    """Refuse a group that a column spreads over several sides."""
    sides: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["group"] and row[column] is not None:
            sides[row["group"]].add(str(row[column]))
    torn = sorted(group for group, own in sides.items() if len(own) > 1)
    if torn:
        several = " and ".join(sorted(sides[torn[0]]))
        raise AudiolibError(f"{where}: group {torn[0]!r} is in {several}; keep it on one side")


def _check_row(row: dict[str, Any], where: str, source: FolderSource) -> None:
    """Give the values of a row their types, or say what is wrong with them."""
    for column in ("path", "split", "group"):
        row[column] = None if row.get(column) in (None, "") else str(row[column])
    if not row["path"]:
        raise AudiolibError(f"{where}: the path is missing")
    row["label"] = _labels(row["label"], source)
    if not row["label"]:
        hint = "; give clips of no class one of their own, such as none" if source.multi_label else ""
        raise AudiolibError(f"{where}: the label of {row['path']} is missing{hint}")
    if len(row["label"]) > 1 and not source.multi_label:
        raise AudiolibError(f"{where}: {row['path']} has {len(row['label'])} labels; set source.multi_label: true")
    if row.get("split") and row["split"] not in SPLITS:
        raise AudiolibError(f"{where}: split is {row['split']!r}, it must be one of {', '.join(SPLITS)}")
    for column, kind in (("fold", int), ("start", float), ("end", float)):
        row[column] = _number(row.get(column), kind, f"{where}: {column}")
    if row["end"] is not None and row["end"] <= (row["start"] or 0):
        raise AudiolibError(f"{where}: end is {row['end']:g}, it must be after start")


def _labels(value: Any, source: FolderSource) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, list):
        parts = [str(part) for part in value if part is not None]
    else:
        parts = str(value).split(source.label_separator) if source.multi_label else [str(value)]
    return tuple(sorted({part.strip() for part in parts if part.strip()}))


def _number(value: Any, kind: type, where: str) -> Any:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except ValueError as error:
        raise AudiolibError(f"{where} is {value!r}, it must be a number") from error
    if not math.isfinite(number) or number < 0:
        raise AudiolibError(f"{where} is {value!r}, it must be a number from 0 on")
    if kind is int and (not number.is_integer() or number >= 2**31):  # 1.0 is how a column with gaps is often written.
        raise AudiolibError(f"{where} is {value!r}, it must be a whole number")
    return kind(number)


def _give_folds(rows: list[dict[str, Any]], source: FolderSource, test: int) -> None:
    """The clips of one fold are the test, a part of the other folds' groups validation."""
    without = [row["path"] for row in rows if row["fold"] is None]
    if without:
        raise AudiolibError(f"source.fold: {len(without)} clips of the table have no fold, the first is {without[0]}")
    if any(row["split"] for row in rows):
        raise AudiolibError("source.fold: the table has a column split, too; drop it, or unset source.fold")
    folds = sorted({row["fold"] for row in rows})
    if test not in folds or len(folds) < 2:
        raise AudiolibError(f"source.fold is {test}; the table has the folds {', '.join(map(str, folds))}")
    _keep_groups_whole(rows, "fold", "source.fold")
    rest = [(label, row["group"] or row["path"]) for row in rows if row["fold"] != test for label in row["label"]]
    split = split_groups(rest, source.valid_fraction, test=0, several_labels=source.multi_label)
    for row in rows:
        row["split"] = "test" if row["fold"] == test else split[row["group"] or row["path"]]


def _give_splits(rows: list[dict[str, Any]], source: FolderSource) -> None:
    groups = [row.get("group") or row["path"] for row in rows]
    members = [(label, group) for row, group in zip(rows, groups, strict=True) for label in row["label"]]
    if not source.multi_label:
        for label in sorted({label for label, _ in members}):
            count = len({group for name, group in members if name == label})
            if count < 3:
                raise AudiolibError(
                    f"class {label!r} has {count} separate clip{'s' * (count > 1)}; to be trained, validated and "
                    "tested a class needs at least three: add some, drop it, or give a split column"
                )
    split = split_groups(members, source.valid_fraction, source.test_fraction, several_labels=source.multi_label)
    for row, group in zip(rows, groups, strict=True):
        row["split"] = split[group]


def _clip(row: dict[str, Any], root: Path) -> Clip:
    cut = (
        ""
        if row.get("start") is None and row.get("end") is None
        else f"#{row.get('start') or 0:g}-{row.get('end') or ''}"
    )
    return Clip(
        id=row["path"] + cut,
        path=str(root / row["path"]),
        label=row["label"],
        split=row["split"],
        fold=row.get("fold"),
        group=row.get("group"),
        start=row.get("start"),
        end=row.get("end"),
    )
