"""Training-time changes of the log-mel: pure functions of an array and a generator (papers.md 1.1)."""

import numpy as np

Random = np.random.Generator


def fit_length(mel: np.ndarray, frames: int, random: Random | None = None, fill: float = 0.0) -> np.ndarray:
    """Cut or pad (t, f) to `frames`; with a generator a longer clip is cut at a random place, else at its start."""
    spare = len(mel) - frames
    if spare >= 0:
        start = int(random.integers(spare + 1)) if random is not None else 0
        return mel[start : start + frames]
    return np.concatenate([mel, np.full((-spare, mel.shape[1]), fill, mel.dtype)])


def mask_bands(mel: np.ndarray, width: int, random: Random) -> np.ndarray:
    """SpecAugment: set one run of at most `width` mel bands to the mean, 0."""
    return _mask(mel, width, 1, random)


def mask_frames(mel: np.ndarray, width: int, random: Random) -> np.ndarray:
    """SpecAugment: set one run of at most `width` frames to the mean, 0."""
    return _mask(mel, width, 0, random)


def _mask(mel: np.ndarray, width: int, axis: int, random: Random) -> np.ndarray:
    size = int(random.uniform() * min(width, mel.shape[axis]))
    start = int(random.uniform() * (mel.shape[axis] - size))
    masked = mel.copy()
    masked[(slice(start, start + size), slice(None)) if axis == 0 else (slice(None), slice(start, start + size))] = 0.0
    return masked


def roll(mel: np.ndarray, most: int, random: Random) -> np.ndarray:
    """Turn the clip in time by up to `most` frames either way."""
    return np.roll(mel, int(random.integers(-most, most + 1)), axis=0)


def trim(mel: np.ndarray, most: int, random: Random) -> np.ndarray:
    """Cut off up to `most` frames at the start: what `roll` is for clips with silence at their ends.

    Without either, a clip would be cut into the same patches in every epoch.
    """
    return mel[int(random.integers(min(most, len(mel) - 1) + 1)) :]


def add_noise(mel: np.ndarray, most: float, random: Random) -> np.ndarray:
    """Add uniform noise whose level is itself drawn from 0 to `most`."""
    return mel + (random.random(mel.shape, dtype=np.float32) * np.float32(random.uniform(0, most))).astype(mel.dtype)


def mix(mel: np.ndarray, other: np.ndarray, share: float, power: int = 2) -> np.ndarray:
    """Mixup of two clips as sounds: their powers are added, which is what mixing unrelated waveforms does.

    Args:
        mel: (t, f) natural log of power, or of magnitude.
        other: (t, f) the second clip.
        share: amplitude of the first, `1 - share` of the second.
        power: 2, or 1 for magnitudes.
    """
    if power == 1:
        return mix(2 * mel, 2 * other, share) / 2
    tiny = 1e-8
    one, two = (x + x.dtype.type(2 * np.log(part + tiny)) for x, part in ((mel, share), (other, 1 - share)))
    larger = np.maximum(one, two)
    return larger + np.log(1 + np.exp(np.minimum(one, two) - larger))  # np.logaddexp takes five times as long.
