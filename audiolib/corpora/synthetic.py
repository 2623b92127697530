"""A made-up corpus: twelve patterns of pitch and of loudness, in any voice, so that only the pattern tells the class.

Slow patterns (the direction of a melody, a tremolo of 3 Hz) need long clips; fast ones (a tremolo of 20 Hz, the
direction of a sweep) need time resolution; pitch patterns need frequency resolution. So patch size, clip length and hop
all matter, as on real audio. Voice, pitch, level, length, noise and the place of the pattern in the clip are drawn.
"""

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from audiolib.config.corpus import DownloadSection, SyntheticSource
from audiolib.corpora.clips import Clip, as_table
from audiolib.files import disk_errors
from audiolib.progress import track
from audiolib.rng import rng

RATE = 16_000
Random = np.random.Generator
Pattern = Callable[[np.ndarray, Random], np.ndarray]


def _voice(hertz: np.ndarray, random: Random) -> np.ndarray:
    """A tone of random timbre that follows a pitch curve: from a pure sine to a rich one."""
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    richness = random.uniform(0, 0.7)
    return sum(
        (richness**k * np.sin((k + 1) * phase + random.uniform(0, 6.28)) for k in range(4)), np.zeros(hertz.size)
    )


def _carrier(time: np.ndarray, random: Random) -> np.ndarray:
    """What a loudness pattern is heard on: a steady voice, or a band of noise."""
    if random.uniform() < 0.5:
        return _voice(np.full(time.size, _pitch(random)), random)
    spectrum = np.fft.rfft(random.standard_normal(time.size))
    hertz = np.fft.rfftfreq(time.size, 1 / RATE)
    centre, width = 2 * _pitch(random), random.uniform(0.1, 0.6)
    return np.fft.irfft(spectrum * np.exp(-((np.log((hertz + 1) / centre) / width) ** 2)), time.size)


def _pitch(random: Random) -> float:
    return float(np.exp(random.uniform(np.log(250), np.log(1200))))


def _tremolo(rate: float) -> Pattern:
    def make(time: np.ndarray, random: Random) -> np.ndarray:
        swing = np.sin(2 * np.pi * rate * random.uniform(0.9, 1.1) * time + random.uniform(0, 6.28))
        return _carrier(time, random) * (0.5 + 0.5 * swing) ** 2

    return make


def _pulses(regular: bool) -> Pattern:
    def make(time: np.ndarray, random: Random) -> np.ndarray:
        gap = random.uniform(0.045, 0.07)
        count = int(time[-1] / gap) + 2
        gaps = np.full(count, gap) if regular else random.exponential(gap, count) + 0.01
        places = (np.cumsum(gaps) * RATE).astype(int)
        onsets = np.zeros(time.size)
        onsets[places[places < time.size]] = 1.0
        decay = np.exp(-np.arange(1600) / (random.uniform(0.005, 0.01) * RATE))
        return _carrier(time, random) * np.convolve(onsets, decay)[: time.size]

    return make


def _sweeps(direction: int) -> Pattern:
    def make(time: np.ndarray, random: Random) -> np.ndarray:
        place = (time / random.uniform(0.06, 0.09) + random.uniform()) % 1
        return _voice(_pitch(random) * 2.5 ** (place if direction > 0 else 1 - place), random)

    return make


def _trill(rate: float) -> Pattern:
    def make(time: np.ndarray, random: Random) -> np.ndarray:
        high = (time * rate * random.uniform(0.9, 1.1) + random.uniform()) % 1 < 0.5
        return _voice(_pitch(random) * np.where(high, random.uniform(1.3, 1.9), 1.0), random)

    return make


def _melody(direction: int) -> Pattern:
    def make(time: np.ndarray, random: Random) -> np.ndarray:
        steps = np.minimum((time / max(time[-1], 1e-3) * 4).astype(int), 3)
        return _voice(_pitch(random) * 1.3 ** (steps if direction > 0 else 3 - steps), random)

    return make


def _vibrato(depth: float) -> Pattern:
    def make(time: np.ndarray, random: Random) -> np.ndarray:
        swing = np.sin(2 * np.pi * random.uniform(8, 11) * time + random.uniform(0, 6.28))
        return _voice(_pitch(random) * (1 + depth * swing), random)

    return make


CLASSES: dict[str, Pattern] = {
    "tremolo_slow": _tremolo(3),
    "tremolo_fast": _tremolo(20),
    "pulses_regular": _pulses(True),
    "pulses_random": _pulses(False),
    "sweep_up": _sweeps(+1),
    "sweep_down": _sweeps(-1),
    "trill_slow": _trill(3),
    "trill_fast": _trill(15),
    "melody_up": _melody(+1),
    "melody_down": _melody(-1),
    "steady": _vibrato(0.0),
    "vibrato": _vibrato(0.15),
}


def make_clip(name: str, number: int, seed: int) -> np.ndarray:
    """One clip of class `name`: samples in [-1, 1] at 16 kHz, 0.5 to 3 s long."""
    random = rng(seed, "synthetic", name, number)
    seconds = float(np.clip(np.exp(random.normal(0.1, 0.4)), 0.5, 3.0))
    time = np.arange(int(seconds * RATE)) / RATE
    sound = CLASSES[name](time, random)
    ramp = np.minimum(1, np.minimum(time, time[-1] - time) / 0.01)
    loudness = 10 ** (random.uniform(-26, -12) / 20)
    sound = ramp * sound / max(float(np.sqrt(np.mean(sound**2))), 1e-6) * loudness
    noise = random.standard_normal(time.size) * loudness * 10 ** (random.uniform(-30, -10) / 20)
    return np.clip(sound + noise, -1, 1)


def fetch(source: SyntheticSource, section: DownloadSection, folder: Path, store: Path) -> pl.DataFrame:
    """Write the clips as 16-bit wav below `folder`; a sixth of each class is for validation, a sixth for the test."""
    numbers = range(source.clips_per_class)
    todo = [(name, number) for name in CLASSES for number in numbers]
    clips = []
    for name, number in track(todo, "synthesis", total=len(todo), unit="clip"):
        sound = make_clip(name, number, source.seed)
        path = folder / name / f"{number:04d}.wav"
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with wave.open(str(path), "wb") as out:
                out.setparams((1, 2, RATE, sound.size, "NONE", ""))
                out.writeframes((sound * 32767).astype("<i2").tobytes())
        split = {0: "test", 1: "valid"}.get(number % 6, "train")
        clips.append(
            Clip(f"{name}/{number:04d}", f"{name}/{number:04d}.wav", (name,), split, seconds=sound.size / RATE)
        )
    return as_table(clips)
