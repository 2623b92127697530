"""The feature stage, sound files to shards, times real time; and shards against log-mel made in the loader."""

import tempfile
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from audiolib.bench.timing import Result, race
from audiolib.config.corpus import FeaturesSection
from audiolib.corpora.clips import Clip, as_table, write_clips
from audiolib.dataset import read_split
from audiolib.features import extract
from audiolib.files import sha256_file, write_json
from audiolib.frontend import Frontend, decode, log_mel

CLIPS, SECONDS = 2400, 10
LOADED = 300
FRONTEND = Frontend(16000, 128, 25.0, 10.0)


def measure(device: torch.device, rounds: int) -> list[Result]:
    """The stage as a whole, without and with sound beside the log-mel; then clips a second on one thread."""
    del device  # The stage works on the host.
    with _corpus() as folder:
        found = [_stage(folder, waveform) for waveform in (False, True)]
        found += _loaded(folder, rounds)
    return found


@contextmanager
def _corpus() -> Iterator[Path]:
    """Wav files of noise; what is heard makes no difference to the work."""
    with tempfile.TemporaryDirectory() as temporary:
        audio = Path(temporary) / "download" / "audio"
        audio.mkdir(parents=True)
        clips, random = [], np.random.default_rng(0)
        for number in range(CLIPS):
            name = f"{number:05d}.wav"
            with wave.open(str(audio / name), "wb") as out:
                out.setparams((1, 2, 16000, 0, "NONE", ""))
                out.writeframes((random.standard_normal(SECONDS * 16000, np.float32) * 3000).astype("<i2").tobytes())
            split = ("test", "valid")[number % 10] if number % 10 < 2 else "train"
            clips.append(Clip(name, name, (str(number % 7),), split))
        write_clips(audio.parent / "clips.parquet", as_table(clips))
        facts = {"corpus": "noise", "multi_label": False, "frontend": None, "clips": CLIPS, "files": "x"}
        facts["list"] = sha256_file(audio.parent / "clips.parquet")
        write_json(audio.parent / "source.json", facts)
        yield Path(temporary)


def _stage(folder: Path, waveform: bool) -> Result:
    section = FeaturesSection(
        sample_rate=16000,
        mel_bins=128,
        window_ms=25,
        hop_ms=10,
        waveform=waveform,
        normalisation="own",
        clips_per_shard=256,
        max_rejects=0,
    )
    started = time.perf_counter()
    extract(folder / "download", section, folder / f"features-{waveform}", folder / "scratch")
    speed = CLIPS * SECONDS / (time.perf_counter() - started)
    mode = "log-mel and sound" if waveform else "log-mel"
    return Result("features", "audiolib", f"{CLIPS} wav files of {SECONDS} s", mode, speed, speed, speed, "x real time")


def _loaded(folder: Path, rounds: int) -> list[Result]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    clips = read_split(folder / "features-False", "train")
    paths = [folder / "download" / "audio" / name for name in clips.ids[:LOADED]]
    for place in range(3):
        np.testing.assert_allclose(clips.log_mel(place), log_mel(decode(paths[place], 16000), FRONTEND), atol=0.02)
    candidates = {
        "from sound files": lambda: [log_mel(decode(path, 16000), FRONTEND) for path in paths],
        "from shards": lambda: [clips.log_mel(place) for place in range(LOADED)],
    }
    timed = race(
        "features", f"{LOADED} clips of {SECONDS} s", "1 core", candidates, min(rounds, 5), torch.device("cpu")
    )
    torch.set_num_threads(threads)
    return [
        Result(
            "features",
            result.impl,
            result.case,
            "1 core, into the loader",
            *(1000 * LOADED / taken for taken in (result.median, result.p80, result.p20)),
            "clips/s",
            None if result.ratio is None else 1 / result.ratio,
        )
        for result in timed
    ]
