"""A made-up corpus: thirteen sound patterns whose classes differ in slow, in fast and in spectral structure.

Slow ones (a melody's direction, a tremolo of 3 Hz) need long clips; fast ones (a tremolo of 20 Hz, the direction of a
sweep) need time resolution; tones against noise need frequency resolution. So patch size, clip length and hop all
matter, as on real audio. Pitch, level, length, noise and the place of the pattern in the clip are drawn per clip.
"""

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np

from audiolib.config.corpus import DownloadSection, SyntheticSource
from audiolib.corpora.clips import Clip
from audiolib.progress import track
from audiolib.rng import rng

RATE = 16_000
Random = np.random.Generator


def _phase(hertz: np.ndarray) -> np.ndarray:
    return 2 * np.pi * np.cumsum(hertz) / RATE


def _tone(hertz: np.ndarray) -> np.ndarray:
    """A tone with two overtones that follows a pitch curve."""
    phase = _phase(hertz)
    return np.sin(phase) + 0.5 * np.sin(2 * phase) + 0.25 * np.sin(3 * phase)


def _band(time: np.ndarray, random: Random) -> np.ndarray:
    """Noise around a random centre: the carrier of the tremolo classes."""
    spectrum = np.fft.rfft(random.standard_normal(time.size))
    hertz = np.fft.rfftfreq(time.size, 1 / RATE)
    centre = np.exp(random.uniform(np.log(600), np.log(4000)))
    return np.fft.irfft(spectrum * np.exp(-((np.log((hertz + 1) / centre) / 0.5) ** 2)), time.size) * 8


def _tremolo(rate: float) -> Callable[[np.ndarray, Random], np.ndarray]:
    def make(time: np.ndarray, random: Random) -> np.ndarray:
        swing = np.sin(2 * np.pi * rate * random.uniform(0.9, 1.1) * time + random.uniform(0, 6.28))
        return _band(time, random) * (0.5 + 0.5 * swing) ** 2

    return make


def _sweeps(direction: int) -> Callable[[np.ndarray, Random], np.ndarray]:
    def make(time: np.ndarray, random: Random) -> np.ndarray:
        place = (time / random.uniform(0.12, 0.2) + random.uniform()) % 1
        low = np.exp(random.uniform(np.log(300), np.log(900)))
        return np.sin(_phase(low * 5.0 ** (place if direction > 0 else 1 - place)))

    return make


def _trill(rate: float) -> Callable[[np.ndarray, Random], np.ndarray]:
    def make(time: np.ndarray, random: Random) -> np.ndarray:
        low = np.exp(random.uniform(np.log(250), np.log(900)))
        high = (time * rate * random.uniform(0.9, 1.1) + random.uniform()) % 1 < 0.5
        return _tone(np.where(high, low * 1.8, low))

    return make


def _clicks(regular: bool) -> Callable[[np.ndarray, Random], np.ndarray]:
    def make(time: np.ndarray, random: Random) -> np.ndarray:
        gap = random.uniform(0.07, 0.11)
        count = int(time[-1] / gap) + 2
        gaps = np.full(count, gap) if regular else random.exponential(gap, count) + 0.01
        train = np.zeros(time.size)
        places = (np.cumsum(gaps) * RATE).astype(int)
        train[places[places < time.size]] = 1.0
        ring = np.exp(-np.arange(400) / 60) * np.sin(2 * np.pi * random.uniform(1500, 4000) * np.arange(400) / RATE)
        return np.convolve(train, ring)[: time.size] * 2

    return make


def _melody(direction: int) -> Callable[[np.ndarray, Random], np.ndarray]:
    def make(time: np.ndarray, random: Random) -> np.ndarray:
        steps = np.minimum((time / max(time[-1], 1e-3) * 4).astype(int), 3)
        low = np.exp(random.uniform(np.log(250), np.log(700)))
        return _tone(low * 1.3 ** (steps if direction > 0 else 3 - steps))

    return make


def _steady(time: np.ndarray, random: Random) -> np.ndarray:
    return _tone(np.full(time.size, np.exp(random.uniform(np.log(250), np.log(1500)))))


def _vibrato(time: np.ndarray, random: Random) -> np.ndarray:
    middle = np.exp(random.uniform(np.log(300), np.log(1200)))
    return _tone(middle * (1 + 0.12 * np.sin(2 * np.pi * random.uniform(5, 7) * time)))


CLASSES: dict[str, Callable[[np.ndarray, Random], np.ndarray]] = {
    "noise": _band,
    "tremolo_slow": _tremolo(3),
    "tremolo_fast": _tremolo(20),
    "sweep_up": _sweeps(+1),
    "sweep_down": _sweeps(-1),
    "trill_slow": _trill(3),
    "trill_fast": _trill(15),
    "clicks_regular": _clicks(True),
    "clicks_random": _clicks(False),
    "melody_up": _melody(+1),
    "melody_down": _melody(-1),
    "steady": _steady,
    "vibrato": _vibrato,
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


def fetch(source: SyntheticSource, section: DownloadSection, folder: Path, store: Path) -> list[Clip]:
    """Write the clips as 16-bit wav below `folder`; a sixth of each class is for validation, a sixth for the test."""
    numbers = range(source.clips_per_class)
    todo = [(name, number) for name in CLASSES for number in numbers]
    clips = []
    for name, number in track(todo, "synthesis", total=len(todo), unit="clip"):
        sound = make_clip(name, number, source.seed)
        path = folder / name / f"{number:04d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as out:
            out.setparams((1, 2, RATE, sound.size, "NONE", ""))
            out.writeframes((sound * 32767).astype("<i2").tobytes())
        split = {0: "test", 1: "valid"}.get(number % 6, "train")
        clips.append(
            Clip(f"{name}/{number:04d}", f"{name}/{number:04d}.wav", (name,), split, seconds=sound.size / RATE)
        )
    return clips
