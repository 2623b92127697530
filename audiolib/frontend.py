"""From a sound file to log-mel: the only place where audio is decoded (AST front end, papers.md 1.1)."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torchaudio.compliance.kaldi import fbank
from torchaudio.transforms import MelSpectrogram

LOUDEST = 16.0  # Floating-point sound may go beyond 1, but not so far.


class BadClip(Exception):
    """Why one clip cannot be used; collected for all clips and reported together."""


@dataclass(frozen=True)
class Frontend:
    """The settings that decide the numbers in a log-mel.

    `kind` is `kaldi`, AST's filter bank (papers.md 1.1), or `stft`, which EPIC-SOUNDS is used with (papers.md 4.3).
    """

    sample_rate: int
    mel_bins: int
    window_ms: float
    hop_ms: float
    kind: str = "kaldi"

    @property
    def window_samples(self) -> int:
        """Samples of one analysis window."""
        return int(self.sample_rate * self.window_ms / 1000)


def decode(path: Path | str, rate: int, start: float | None = None, end: float | None = None) -> np.ndarray:
    """Read a wav, flac, ogg or mp3 file as mono at `rate` Hz.

    Args:
        path: the file; any sample rate, channel count and bit depth that libsndfile reads.
        rate: sample rate of the result; differing files are resampled (soxr, high quality).
        start: first second to read, or null for the beginning.
        end: last second to read, or null for the end.

    Returns:
        (l,) float32 in [-1, 1]; channels are averaged.

    Raises:
        BadClip: the file is missing, empty, cut short, not audio, or holds values that are no sound: not finite, or far
            beyond 1, as floating-point files at the scale of 16-bit numbers have them.
    """
    path = Path(path)
    import soundfile  # Only decoding needs these two; log-mel of stored sound works on a machine without them.
    import soxr

    try:
        if path.stat().st_size == 0:
            raise BadClip("the file is empty (0 bytes)")
        with soundfile.SoundFile(path) as sound:
            first = min(int((start or 0) * sound.samplerate), sound.frames)
            last = sound.frames if end is None else int(end * sound.samplerate)
            # An mp3's frames lean on those before: right after a jump they are silent.
            early = min(first, sound.samplerate) if sound.format == "MP3" else 0
            sound.seek(first - early)
            samples = sound.read(max(0, last - first) + early, dtype="float32", always_2d=True)[early:]
            found, expected = len(samples), min(last, sound.frames) - first
            source_rate = sound.samplerate
    except FileNotFoundError as error:
        raise BadClip("the file does not exist") from error
    except (soundfile.SoundFileError, OSError, RuntimeError, ValueError, OverflowError, MemoryError) as error:
        raise BadClip(f"not readable as audio ({' '.join(str(error).split())})") from error
    if found < expected or _cut_short(path):
        raise BadClip("the file is cut short: it holds fewer samples than its header says")
    if not np.isfinite(samples).all():
        raise BadClip("holds samples that are not finite numbers (NaN or infinity)")
    if (peak := np.abs(samples).max(initial=0)) > LOUDEST:
        raise BadClip(f"holds samples up to {peak:.0f}; floating-point sound lies between -1 and 1")
    mono = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
    return mono if source_rate == rate or not mono.size else soxr.resample(mono, source_rate, rate)


def duration(path: Path | str) -> float:
    """Seconds that a sound file lasts by its header.

    Raises:
        BadClip: no readable sound file.
    """
    path = Path(path)
    import soundfile

    try:
        if path.stat().st_size == 0:
            raise BadClip("the file is empty (0 bytes)")
        return float(soundfile.info(path).duration)
    except FileNotFoundError as error:
        raise BadClip("the file does not exist") from error
    except (soundfile.SoundFileError, OSError, RuntimeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise BadClip(f"not readable as audio ({' '.join(str(error).split())})") from error


def _cut_short(path: Path) -> bool:
    """Whether a wav's header promises more bytes than there are; libsndfile reads such a file without a word."""
    with path.open("rb") as handle:
        head = handle.read(12)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return False
        size = path.stat().st_size
        place = 12
        while place + 8 <= size:
            handle.seek(place)
            chunk = handle.read(8)
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                # Who writes into a pipe cannot know the length: 0, the largest number, or 2 GiB (SoX: 0x7FFFF000).
                open_end = length >= 0xFFFFFF00 or (0x7FFFF000 <= length <= 0x80000000 and length > size)
                return length > 0 and place + 8 + length > size and not open_end
            place += 8 + length + length % 2
    return False


def to_int16(samples: np.ndarray) -> np.ndarray:
    """(l,) sound in [-1, 1] as 16-bit numbers; what lies outside is clipped."""
    return (np.clip(samples, -1.0, 1.0) * 32767).round().astype(np.int16)


def from_int16(samples: np.ndarray) -> np.ndarray:
    """(l,) float32 sound in [-1, 1] of stored 16-bit numbers."""
    return samples.astype(np.float32) / 32767


def log_mel(samples: np.ndarray, frontend: Frontend) -> np.ndarray:
    """Log-mel of one clip.

    `kaldi` is the filter bank with the AST settings: mean removed, Hann window, no dither; t = 1 + (l - window) // hop.
    `stft` is what librosa computes with 2,048 points, HTK bands of magnitudes without norm, zeros around the clip, and
    1e-6 added; t = 1 + l // hop.

    Args:
        samples: (l,) mono at the front end's rate.
        frontend: window, hop and number of mel bands.

    Returns:
        (t, f) float32, natural logarithm of power (`kaldi`) or of magnitude (`stft`).

    Raises:
        BadClip: shorter than one analysis window.
    """
    if len(samples) < frontend.window_samples:
        have = 1000 * len(samples) / frontend.sample_rate
        raise BadClip(f"lasts {have:.1f} ms, shorter than one analysis window ({frontend.window_ms:g} ms)")
    wave = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
    with torch.autocast("cpu", enabled=False):  # A model that is being evaluated in bfloat16 may have asked for it.
        return _filter_bank(wave, frontend).numpy()


def _filter_bank(wave: torch.Tensor, frontend: Frontend) -> torch.Tensor:
    if frontend.kind == "stft":
        return torch.log(_mel_spectrogram(frontend)(wave).T + 1e-6)
    return fbank(
        (wave - wave.mean()).unsqueeze(0),
        htk_compat=True,
        sample_frequency=frontend.sample_rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=frontend.mel_bins,
        dither=0.0,
        frame_length=frontend.window_ms,
        frame_shift=frontend.hop_ms,
    )


@lru_cache(maxsize=8)
def _mel_spectrogram(frontend: Frontend) -> MelSpectrogram:
    return MelSpectrogram(
        frontend.sample_rate,
        n_fft=2048,
        win_length=frontend.window_samples,
        hop_length=round(frontend.sample_rate * frontend.hop_ms / 1000),
        n_mels=frontend.mel_bins,
        power=1.0,  # Magnitudes, as in the code for EPIC-SOUNDS.
        pad_mode="constant",
    )
