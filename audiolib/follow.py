"""A file as a stream: what a model makes of all so far, again and again, each frame heard once (Audio Mamba, fo-fo)."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from audiolib.errors import AudiolibError
from audiolib.frontend import BadClip, Frontend, decode, duration, log_mel
from audiolib.inference import Heard, Listener
from audiolib.models.audio_mamba import AudioMamba
from audiolib.models.streaming import Stream

# Seconds of sound that are read at a time.
BLOCK = 10


def follow(listener: Listener, path: Path, every: float, bad: Callable[[str, str], None]) -> Iterator[Heard]:
    """What a model makes of a file from its beginning, in memory that does not grow with the file.

    Args:
        listener: of an Audio Mamba that looks only back (`directions: fo-fo`, see `streaming.Stream`).
        path: of a sound file.
        every: seconds after which it is told; at the end it is told, too.
        bad: told path and reason of a file that cannot be read.

    Raises:
        AudiolibError: a model that must see the end before the beginning, or `every` is not positive.
    """
    if not (math.isfinite(every) and every > 0):
        raise AudiolibError("a stream is told of after a positive number of seconds")
    stream, frontend = _stream(listener, every)
    heard, step = 0, max(1, round(1000 * every / frontend.hop_ms))
    try:
        total = duration(path)
        for mel in _frames(path, total, frontend):
            for part in np.split(mel, range(step - heard % step, len(mel), step)):
                stream.feed(torch.from_numpy(listener.normalised(part)))
                heard += len(part)
                if heard % step == 0:
                    yield _so_far(listener, stream, path, min(total, heard * frontend.hop_ms / 1000))
        if heard == 0:
            raise BadClip("holds no samples")
        if heard % step:
            yield _so_far(listener, stream, path, total)
    except BadClip as error:
        bad(str(path), str(error))


def _stream(listener: Listener, every: float) -> tuple[Stream, Frontend]:
    model, (view, frontend) = listener.model, listener.shape(every)
    if not isinstance(model, AudioMamba) or listener.patch != model.config.patch or view.pool > 1:
        raise AudiolibError(
            "a stream needs an Audio Mamba with directions: fo-fo, at its own patch size, without pooling"
        )
    if frontend.kind != "kaldi":
        raise AudiolibError(f"a stream needs log-mel that looks at frames alone; this model has kind: {frontend.kind}")
    return Stream(model, view.stretch), frontend


def _so_far(listener: Listener, stream: Stream, path: Path, end: float) -> Heard:
    return Heard(str(path), 0.0, end, listener.shares(stream.logits()[None])[0])


def _frames(path: Path, total: float, frontend: Frontend) -> Iterator[np.ndarray]:
    """The log-mel of a file, (t, f) frames at a time: what `log_mel` gives of the whole."""
    rate, hop = frontend.sample_rate, int(frontend.sample_rate * frontend.hop_ms * 0.001)
    held, skip = np.zeros(0, np.float32), 0
    for start in range(0, math.ceil(total), BLOCK):
        # A second more on both sides, for resampling to begin and end in; whole seconds keep the samples in line.
        before = min(start, 1)
        found = decode(path, rate, start - before, min(total, start + BLOCK + 1))
        held = np.concatenate([held, found[before * rate + skip : (before + BLOCK) * rate]])
        skip = 0
        if start == 0 and total <= BLOCK:
            held = np.pad(held, (0, max(0, frontend.window_samples - len(held))))  # Shorter than a window.
        if len(held) >= frontend.window_samples:
            mel = log_mel(held, frontend)
            skip = max(0, len(mel) * hop - len(held))  # Between two windows, where a hop is longer than one.
            held = held[len(mel) * hop :]
            yield mel
