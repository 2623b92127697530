"""Free Spoken Digit Dataset: 3,000 clips of ten spoken digits, six speakers, 8 kHz, 0.14 to 2.28 s. CC BY-SA 4.0.

Origin: github.com/Jakobovski/free-spoken-digit-dataset. Official split: recordings with index 0 to 4 are the test.
"""

import re
from pathlib import Path

import polars as pl

from audiolib.config.corpus import DownloadSection, FsddSource
from audiolib.corpora.archives import Archive, extract, obtain
from audiolib.corpora.clips import Clip, as_table
from audiolib.errors import AudiolibError

ARCHIVE = Archive(
    url="https://github.com/Jakobovski/free-spoken-digit-dataset/archive/26eb9aa.tar.gz",
    file="free-spoken-digit-dataset.tar.gz",
    sha256=None,  # GitHub makes it on demand.
)
_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
# The five recordings after the official test ones: as many of each digit and speaker as the test has.
_VALID = range(5, 10)


def fetch(source: FsddSource, section: DownloadSection, folder: Path, store: Path) -> pl.DataFrame:
    """Unpack the recordings below `folder` and list them."""
    extract(obtain(ARCHIVE, section, source.mirrored, store), folder, "FSDD")
    clips = []
    for path in sorted(folder.rglob("recordings/*.wav")):
        match = _NAME.fullmatch(path.name)
        if match:
            digit, speaker, index = match[1], match[2], int(match[3])
            split = "test" if index < 5 else "valid" if index in _VALID else "train"
            clips.append(Clip(path.stem, str(path.relative_to(folder)), (digit,), split, group=speaker))
    if not clips:
        raise AudiolibError(
            "the FSDD archive holds no recordings/<digit>_<speaker>_<index>.wav; is it another archive?"
        )
    return as_table(clips)
