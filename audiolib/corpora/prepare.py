"""Fetch one corpus: the table of corpora, and what a fetched one leaves."""

import hashlib
from pathlib import Path
from typing import Any

import polars as pl

from audiolib.config.corpus import DownloadSection
from audiolib.corpora import audioset, epic_sounds, esc50, folder, fsdd, speech_commands, synthetic, vggsound, voxceleb1
from audiolib.corpora.clips import write_clips
from audiolib.files import sha256_file, write_sealed

CORPORA = {
    "synthetic": synthetic,
    "fsdd": fsdd,
    "speech_commands": speech_commands,
    "esc50": esc50,
    "audioset": audioset,
    "vggsound": vggsound,
    "voxceleb1": voxceleb1,
    "epic_sounds": epic_sounds,
    "folder": folder,
}


def prepare(source: Any, section: DownloadSection, out: Path, store: Path) -> None:
    """Fetch one corpus and leave `clips.parquet`, `source.json` and `audio/` (which your own clips are not copied to).

    Args:
        source: the `source` of a data preset; its `corpus` names the module that knows it.
        section: the `download` section of params.yaml.
        out: the stage's folder.
        store: where downloaded archives are kept from run to run.
    """
    audio = out / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    clips: pl.DataFrame = CORPORA[source.corpus].fetch(source, section, audio, store)
    write_clips(out / "clips.parquet", clips)
    own_frontend = getattr(source, "frontend", None)
    write_sealed(
        out / "source.json",
        {
            "corpus": source.corpus,
            "multi_label": getattr(source, "multi_label", False),
            "frontend": own_frontend.model_dump() if own_frontend else None,
            "clips": len(clips),
            "list": sha256_file(out / "clips.parquet"),
            "files": _digest_of_files(audio, clips),
        },
    )


def _digest_of_files(audio: Path, clips: pl.DataFrame) -> str:
    """Changes when any file does, so that a later stage reruns although the list stayed the same.

    Files of your own folder are told by size and time, without reading gigabytes; ours by size, as DVC hashes them.
    """
    seen = hashlib.sha256()
    for name in clips.sort("id")["path"]:
        path = audio / name
        if path.exists():
            state = path.stat()
            own = Path(name).is_absolute()
            seen.update(f"{name} {state.st_size} {state.st_mtime_ns if own else 0}\n".encode())
    return seen.hexdigest()
