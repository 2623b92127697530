"""AudioSet: ten-second pieces of videos, 527 labels, several a clip. Lists CC BY 4.0, ontology CC BY-SA 4.0.

Origin: research.google.com/audioset. `download.folder` holds the three segment CSVs (`balanced_train_segments.csv`,
`unbalanced_train_segments.csv`, `eval_segments.csv`), `ontology.json`, and anywhere below it the clips, already cut,
named `<YTID>`, `Y<YTID>` or `<YTID>_<start>` with any audio suffix. The evaluation list is the test; AudioSet has no
validation list, so a share of the training videos is held out for it.
"""

import json
import re
from pathlib import Path

import polars as pl

from audiolib.config.corpus import AudioSetSource, DownloadSection
from audiolib.corpora.local import audio_files, corpus_root, hold_out, read_rows, upstream_list, with_audio
from audiolib.errors import AudiolibError

_TRAIN = {"balanced": ("balanced_train",), "full": ("balanced_train", "unbalanced_train")}
_YTID = re.compile(r"Y?([\w-]{11})(?:_\d+(?:\.\d+)?)*")


def fetch(source: AudioSetSource, section: DownloadSection, folder: Path, store: Path) -> pl.DataFrame:
    """List the clips of the segment CSVs that are in `download.folder`; nothing is copied."""
    root = corpus_root("AudioSet", section)
    names = _labels(upstream_list(root, "ontology.json", "AudioSet"))
    lists = {**dict.fromkeys(_TRAIN[source.train], "train"), "eval": "test"}
    parts = [_segments(root, f"{name}_segments.csv").with_columns(split=pl.lit(part)) for name, part in lists.items()]
    table = pl.concat(parts).unique("key", keep="last", maintain_order=True)
    table = table.with_columns(label=pl.col("mids").list.eval(pl.element().replace_strict(names, default=None)))
    unknown = table.filter(pl.col("label").list.contains(None))
    if len(unknown):
        raise AudiolibError(
            f"clip {unknown['id'][0]} has a label that ontology.json lacks: {', '.join(unknown['mids'][0])}"
        )
    held = hold_out(table["key"], source.valid_fraction)
    table = table.with_columns(
        split=pl.when((pl.col("split") == "train") & held).then(pl.lit("valid")).otherwise("split"), group="key"
    )
    return with_audio(table.drop("mids"), audio_files(root, _key), source.max_missing, "AudioSet", folder)


def _labels(path: Path) -> dict[str, str]:
    """Machine ids to names. Two ids of the ontology may share a name: such a name carries its id."""
    try:
        entries = {entry["id"]: entry["name"] for entry in json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, KeyError, TypeError) as error:
        raise AudiolibError(f"{path} is not the AudioSet ontology ({type(error).__name__}: {error})") from error
    every = list(entries.values())
    return {mid: name if every.count(name) == 1 else f"{name} ({mid})" for mid, name in entries.items()}


def _segments(root: Path, name: str) -> pl.DataFrame:
    """The official CSV: three lines of comments, then `YTID, start, end, "mid,mid"` with a blank after each comma."""
    path = upstream_list(root, name, "AudioSet")
    rows = read_rows(path).filter(~pl.col("row").str.starts_with("#"))
    shape = r'^(?<ytid>[\w-]{11}), *(?<start>[\d.]+), *(?<end>[\d.]+), *"?(?<mids>[^"]+)"?\s*$'
    parts = rows.select("row", pl.col("row").str.extract_groups(shape).alias("part")).unnest("part")
    bad = parts.filter(pl.col("ytid").is_null())
    if len(bad):
        raise AudiolibError(f"{path}: not a segment: {bad['row'][0][:80]!r}")
    return parts.select(
        id=pl.col("ytid") + "_" + pl.col("start").cast(pl.Float64).cast(pl.Int64).cast(pl.String),
        key="ytid",
        seconds=pl.col("end").cast(pl.Float64) - pl.col("start").cast(pl.Float64),
        mids=pl.col("mids").str.split(",").list.eval(pl.element().str.strip_chars()),
    )


def _key(path: Path) -> str:
    match = _YTID.fullmatch(path.stem)
    return match[1] if match else path.stem
