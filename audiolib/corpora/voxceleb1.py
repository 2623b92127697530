"""VoxCeleb1: who of 1,251 speakers is heard, 4 to 145 s. CC BY 4.0; the audio is available on request.

Origin: www.robots.ox.ac.uk/~vgg/data/voxceleb. `download.folder` holds `iden_split.txt` (lines of `1`, `2` or `3` for
train, validation, test, and a path) and below it the clips as published: `<speaker>/<video>/<number>.wav`.
"""

from pathlib import Path

import polars as pl

from audiolib.config.corpus import DownloadSection, VoxCeleb1Source
from audiolib.corpora.local import audio_files, corpus_root, read_rows, upstream_list, with_audio
from audiolib.errors import AudiolibError

_SPLITS = {"1": "train", "2": "valid", "3": "test"}


def fetch(source: VoxCeleb1Source, section: DownloadSection, folder: Path, store: Path) -> pl.DataFrame:
    """List the clips of the identification split that are in `download.folder`; nothing is copied."""
    root = corpus_root("VoxCeleb1", section)
    path = upstream_list(root, "iden_split.txt", "VoxCeleb1")
    rows = read_rows(path)
    shape = r"^(?<part>[123]) +(?<key>(?<speaker>[^/\s]+)/(?<video>[^/\s]+)/\S+)\.\w+$"
    parts = rows.select("row", pl.col("row").str.extract_groups(shape).alias("part")).unnest("part")
    bad = parts.filter(pl.col("key").is_null())
    if len(bad):
        raise AudiolibError(f"{path}: not a clip: {bad['row'][0][:80]!r}")
    table = parts.select(
        id="key",
        key="key",
        label=pl.concat_list("speaker"),
        split=pl.col("part").replace_strict(_SPLITS),
        group=pl.col("speaker") + "/" + pl.col("video"),
    )
    files = audio_files(root, lambda path: "/".join([*path.parts[-3:-1], path.stem]))
    return with_audio(table, files, source.max_missing, "VoxCeleb1", folder)
