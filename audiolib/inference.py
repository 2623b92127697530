"""A trained model for sound files: any rate, channels and length; classes or embeddings of windows or whole files."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from audiolib.errors import AudiolibError
from audiolib.frontend import BadClip, Frontend, decode, duration, log_mel
from audiolib.grid import Cell, view_of
from audiolib.loader import shown
from audiolib.models.positions import as_size
from audiolib.predict import BATCH_FRAMES, pick_device
from audiolib.pretrained import load, load_card
from audiolib.views import View

# Seconds of a window of a model that takes any length.
LONGEST_WINDOW = 30.0
_FRONTEND = ("sample_rate", "mel_bins", "window_ms", "hop_ms", "kind")


@dataclass(frozen=True)
class Heard:
    """What a model makes of a stretch of a file: `values` are (c,) probabilities, or a (d,) embedding."""

    path: str
    start: float
    end: float
    values: np.ndarray


class Listener:
    """A model folder, ready for sound.

    Args:
        folder: a trained model.
        patch: patch size to use, (mel bands, frames) or a number for a square; null = its own.
        hop_ms: time resolution to use; null = that it was trained at.
        device: `auto`, `cpu` or `cuda`.
        scan: implementation of an Audio Mamba's scan; `naive` needs no compiler.

    Raises:
        AudiolibError: not a model folder, or a patch or hop that cannot be.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        patch: tuple[int, int] | int | None = None,
        hop_ms: float | None = None,
        device: str = "auto",
        scan: str = "auto",
    ) -> None:
        self.folder, self.device = folder, pick_device(device)
        self.model, self.card = load(folder, str(self.device), scan=scan), load_card(folder)
        patch = None if patch is None else as_size("patch", patch)
        if hop_ms is not None and not 1 <= hop_ms <= 1000:
            raise AudiolibError(f"a hop lasts 1 to 1000 ms, not {hop_ms:g}")
        if patch is not None and patch[0] > self.model.config.mel_bins:
            bands = self.model.config.mel_bins
            raise AudiolibError(f"a patch of {patch[0]} bands is higher than this model's log-mel, which has {bands}")
        self.patch, self.hop_ms = patch or self.card.patch, hop_ms
        self.classes, self.sample_rate = self.card.classes, int(self.card.frontend["sample_rate"])

    @property
    def own_seconds(self) -> float:
        """The clip length that the model was trained at; the longest window of one that takes any length."""
        return self.card.seconds if self.card.padded else LONGEST_WINDOW

    def batches(
        self, sounds: Iterable[tuple[str, float, float, np.ndarray]], window: float
    ) -> Iterator[tuple[list[tuple[str, float, float]], "torch.Tensor"]]:
        """Names with times, and (m, d) embeddings, of sounds that come one by one.

        Args:
            sounds: name, first and last second, and (l,) samples at the model's rate, each up to `window` long.
            window: seconds.
        """
        view, frontend = self.shape(window)
        names: list[tuple[str, float, float]] = []
        mels: list[np.ndarray] = []
        frames = 0
        for name, start, end, samples in sounds:
            mel = self._mel(samples, frontend, view)
            if mels and frames + len(mel) > BATCH_FRAMES:
                yield names, self._embed(mels, view)
                names, mels, frames = [], [], 0
            names.append((name, start, end))
            mels.append(mel)
            frames += len(mel)
        if mels:
            yield names, self._embed(mels, view)

    def shape(self, window: float) -> tuple[View, Frontend]:
        """How windows of so many seconds are shown to the model, and the log-mel that this takes."""
        view = view_of(self.card, Cell(self.patch, window, self.hop_ms))
        frontend = Frontend(**{key: self.card.frontend[key] for key in _FRONTEND if key in self.card.frontend})
        return view, replace(frontend, hop_ms=round(frontend.hop_ms * view.hop, 6))

    def normalised(self, mel: np.ndarray) -> np.ndarray:
        """Log-mel as the model knows it: by the mean and twice the deviation of its training clips."""
        mean, deviation = self.card.frontend["mean"], self.card.frontend["std"]
        return (mel - np.float32(mean)) * np.float32(0.5 / deviation)

    def _mel(self, samples: np.ndarray, frontend: Frontend, view: View) -> np.ndarray:
        short = frontend.window_samples - len(samples)
        return view.fit(self.normalised(log_mel(np.pad(samples, (0, max(0, short))), frontend)))

    def _embed(self, mels: list[np.ndarray], view: View) -> torch.Tensor:
        with torch.inference_mode():
            return self.model.embeddings(shown(mels, None, [view] * len(mels)).to(self.device), self.patch)

    def probabilities(self, embeddings: torch.Tensor) -> np.ndarray:
        """(m, c) float32 of (m, d) embeddings: independent for several labels a clip, else with sum 1."""
        with torch.inference_mode():
            return self.shares(self.model.head(embeddings))

    def shares(self, logits: torch.Tensor) -> np.ndarray:
        """(m, c) probabilities of (m, c) logits."""
        logits = logits.float()
        return (logits.sigmoid() if self.card.multi_label else logits.softmax(1)).cpu().numpy()

    def listen(
        self,
        paths: Iterable[Path | str] | Path | str,
        *,
        window: float | None = None,
        stride: float | None = None,
        embed: bool = False,
        bad: Callable[[str, str], None] | None = None,
    ) -> Iterator[Heard]:
        """Windows of sound files, in order; memory does not grow with the length of a file.

        Args:
            paths: of wav, flac, ogg or mp3 files of any rate and channel count, or one such path.
            window: seconds; null = the length that the model was trained at, 30 s for one that takes any. The last
                window of a file is moved back so that it is full; a shorter file is one window.
            stride: seconds from one window to the next; null = no overlap.
            embed: give embeddings instead of probabilities.
            bad: told path and reason of a file that cannot be read; null = such a file is an error.

        Raises:
            AudiolibError: a bad file where nobody wants to be told, or a window or stride that is not positive.
        """
        length = self.own_seconds if window is None else window
        step = length if stride is None else stride
        if not (math.isfinite(length) and length > 0 and math.isfinite(step) and step > 0):
            raise AudiolibError("a window and a stride are positive numbers of seconds")
        frame = self.card.frontend["window_ms"] / 1000
        if length < frame:
            raise AudiolibError(f"a window of {length:g} s is shorter than a single frame, which hears {frame:g} s")

        def told(path: str, reason: str) -> None:
            if bad is None:
                raise AudiolibError(f"{path}: {reason}")
            bad(path, reason)

        paths = [paths] if isinstance(paths, str | Path) else paths
        sounds = (piece for path in paths for piece in self._pieces(str(path), length, step, told))
        for names, embeddings in self.batches(sounds, length):
            values = embeddings.float().cpu().numpy() if embed else self.probabilities(embeddings)
            for (path, start, end), own in zip(names, values, strict=True):
                yield Heard(path, start, end, own)

    def _pieces(
        self, path: str, window: float, stride: float, bad: Callable[[str, str], None]
    ) -> Iterator[tuple[str, float, float, np.ndarray]]:
        try:
            total = duration(Path(path))
            if total == 0:
                raise BadClip("holds no samples")
            for start in window_starts(total, window, stride):
                end = min(total, start + window)
                yield path, start, end, decode(Path(path), self.sample_rate, start, end)
        except BadClip as error:
            bad(path, str(error))


def window_starts(total: float, window: float, stride: float) -> list[float]:
    """First seconds of the windows of a file: every `stride`, the last one moved back to be full; never none."""
    if total <= window:
        return [0.0]
    count = math.ceil((total - window) / stride - 1e-9) + 1
    return [min(number * stride, total - window) for number in range(count)]


def whole_files(windows: Iterable[Heard]) -> Iterator[Heard]:
    """One entry a file: the mean over its windows. A file begins with the window at 0 s; it may be asked for twice."""
    begun = 0

    def number(heard: Heard) -> int:
        nonlocal begun
        begun += heard.start == 0
        return begun

    for _, group in groupby(windows, key=number):
        every = list(group)
        yield Heard(every[0].path, every[0].start, every[-1].end, np.mean([heard.values for heard in every], axis=0))


def top(values: np.ndarray, classes: list[str], count: int) -> list[tuple[str, float]]:
    """The most probable classes, the likeliest first."""
    order = np.argsort(-values, kind="stable")[:count]
    return [(classes[place], float(values[place])) for place in order]
