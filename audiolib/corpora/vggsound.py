"""VGGSound: ten-second pieces of videos, 309 classes, one a clip. CC BY 4.0.

Origin: www.robots.ox.ac.uk/~vgg/data/vggsound. `download.folder` holds `vggsound.csv` (video, start second, class,
train or test) and anywhere below it the clips, named `<video>_<start, six digits>` with any audio suffix. VGGSound has
no validation list: a share of the training videos is held out for it.
"""

from pathlib import Path

import polars as pl

from audiolib.config.corpus import DownloadSection, VggSoundSource
from audiolib.corpora.local import audio_files, corpus_root, hold_out, read_list, upstream_list, with_audio
from audiolib.errors import AudiolibError


def fetch(source: VggSoundSource, section: DownloadSection, folder: Path, store: Path) -> pl.DataFrame:
    """List the clips of `vggsound.csv` that are in `download.folder`; nothing is copied."""
    root = corpus_root("VGGSound", section)
    path = upstream_list(root, "vggsound.csv", "VGGSound")
    rows = read_list(path, ["video", "start", "class", "part"], header=False)
    whole = pl.col("part").is_in(["train", "test"]) & pl.col("start").str.contains(r"^\d+$")
    whole &= pl.col("video").is_not_null() & pl.col("class").is_not_null()
    odd = rows.filter(~whole.fill_null(value=False))  # A field may be empty.
    if len(odd):
        raise AudiolibError(f"{path}: not a clip: {','.join(map(str, odd.row(0)))}")
    held = hold_out(rows["video"], source.valid_fraction)
    key = pl.col("video") + "_" + pl.col("start").str.zfill(6)
    table = rows.select(
        id=key,
        key=key,
        label=pl.concat_list("class"),
        split=pl.when((pl.col("part") == "train") & held).then(pl.lit("valid")).otherwise("part"),
        group="video",
    )
    return with_audio(table, audio_files(root, lambda path: path.stem), source.max_missing, "VGGSound", folder)
