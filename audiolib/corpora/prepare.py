"""Fetch one corpus: the table of corpora, and what a fetched one leaves."""

import hashlib
from pathlib import Path
from typing import Any

from audiolib.config.corpus import DownloadSection
from audiolib.corpora import esc50, folder, fsdd, speech_commands, synthetic
from audiolib.corpora.clips import Clip, write_clips
from audiolib.files import write_json

CORPORA = {
    "synthetic": synthetic,
    "fsdd": fsdd,
    "speech_commands": speech_commands,
    "esc50": esc50,
    "folder": folder,
}


def prepare(source: Any, section: DownloadSection, out: Path, store: Path) -> None:
    """Fetch one corpus and leave `clips.parquet`, `source.json` and (unless it is your own folder) `audio/` in `out`.

    Args:
        source: the `source` of a data preset; its `corpus` names the module that knows it.
        section: the `download` section of params.yaml.
        out: the stage's folder.
        store: where downloaded archives are kept from run to run.
    """
    audio = out / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    clips: list[Clip] = CORPORA[source.corpus].fetch(source, section, audio, store)
    write_clips(out / "clips.parquet", clips)
    write_json(
        out / "source.json",
        {
            "corpus": source.corpus,
            "multi_label": getattr(source, "multi_label", False),
            "clips": len(clips),
            "files": _digest_of_files(audio, clips),
        },
    )


def _digest_of_files(audio: Path, clips: list[Clip]) -> str:
    """Changes when any file does, so that a later stage reruns although the list stayed the same.

    Files of your own folder are told by size and time, without reading gigabytes; ours by size, as DVC hashes them.
    """
    seen = hashlib.sha256()
    for clip in sorted(clips, key=lambda clip: clip.id):
        path = audio / clip.path
        if path.exists():
            state = path.stat()
            own = Path(clip.path).is_absolute()
            seen.update(f"{clip.path} {state.st_size} {state.st_mtime_ns if own else 0}\n".encode())
    return seen.hexdigest()
