"""Google Speech Commands v0.02: one-second clips at 16 kHz (arXiv 1804.03209). CC BY 4.0.

`full`: 35 words, about 105,000 clips, split by the archive's own validation_list.txt and testing_list.txt.
`test12`: the canonical test archive of ten words, `_unknown_` and `_silence_`, split by speaker.
`part12`: the 1,449 clips of that archive that `speech_commands_part.txt` lists, split by speaker; studies use it.
"""

import re
from pathlib import Path

import polars as pl

from audiolib.config.corpus import DownloadSection, SpeechCommandsSource
from audiolib.corpora.archives import Archive, extract, obtain
from audiolib.corpora.clips import Clip, as_table
from audiolib.corpora.splits import split_groups
from audiolib.errors import AudiolibError

_UPSTREAM = "https://storage.googleapis.com/download.tensorflow.org/data"
_TEST12 = Archive(
    url=f"{_UPSTREAM}/speech_commands_test_set_v0.02.tar.gz",
    file="speech_commands_test_set_v0.02.tar.gz",
    sha256="cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
)
ARCHIVES = {
    "full": Archive(
        url=f"{_UPSTREAM}/speech_commands_v0.02.tar.gz",
        file="speech_commands_v0.02.tar.gz",
        sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    ),
    "test12": _TEST12,
    "part12": _TEST12,
}
PART = Path(__file__).with_name("speech_commands_part.txt")
_SPEAKER = re.compile(r"([0-9a-f]{6,})_nohash_")


def fetch(source: SpeechCommandsSource, section: DownloadSection, folder: Path, store: Path) -> pl.DataFrame:
    """Unpack the chosen archive below `folder` and list its clips."""
    extract(obtain(ARCHIVES[source.variant], section, source.mirrored, store), folder, "Speech Commands")
    files = sorted(p for p in folder.glob("*/*.wav") if p.parent.name != "_background_noise_")
    if not files:
        raise AudiolibError(
            "the Speech Commands archive holds no <word>/<speaker>_nohash_<n>.wav; is it another archive?"
        )
    if source.variant == "part12":
        files = _listed(files)
    split_of = _official(folder, files) if source.variant == "full" else _by_speaker(files)
    return as_table(
        Clip(
            id=_name(path),
            path=_name(path),
            label=(path.parent.name,),
            split=split_of[path],
            group=_speaker(path),
            seconds=None,
        )
        for path in files
    )


def _listed(files: list[Path]) -> list[Path]:
    """The files of the part; the others are removed, so that a mirror of the part alone leaves the same folder."""
    found, wanted = {_name(path): path for path in files}, PART.read_text(encoding="utf-8").split()
    if missing := [name for name in wanted if name not in found]:
        raise AudiolibError(
            f"the Speech Commands archive lacks {len(missing)} of the {len(wanted)} clips in {PART.name}, among them "
            f"{missing[0]}; is it another archive? source.variant: test12 takes all clips that there are"
        )
    for name in found.keys() - wanted:
        found[name].unlink()
    return [found[name] for name in wanted]


def _official(folder: Path, files: list[Path]) -> dict[Path, str]:
    lists = {}
    for split, name in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
        path = folder / name
        if not path.exists():
            raise AudiolibError(
                f"the Speech Commands archive lacks {name}; source.variant: test12 is the other archive"
            )
        lists.update(dict.fromkeys(path.read_text().split(), split))
    return {path: lists.get(_name(path), "train") for path in files}


def _by_speaker(files: list[Path]) -> dict[Path, str]:
    groups = split_groups([(path.parent.name, _speaker(path)) for path in files], valid=0.1, test=0.2)
    return {path: groups[_speaker(path)] for path in files}


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _speaker(path: Path) -> str:
    """The speaker's hash; a silence clip has none and is a group of its own."""
    match = _SPEAKER.search(path.name)
    return match[1] if match else path.stem
