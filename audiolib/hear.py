"""The interface of the HEAR benchmark: `load_model`, `get_scene_embeddings`, `get_timestamp_embeddings`.

Holistic Evaluation of Audio Representations, API 2021 (hearbenchmark.com). The model file is a model folder of this
library; embeddings are what its head sees.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from audiolib.errors import AudiolibError
from audiolib.inference import Listener

# Milliseconds between timestamps, and seconds that a timestamp's embedding hears around it.
TIMESTAMP_MS = 50.0
TIMESTAMP_WINDOW = 0.96
SAMPLE_RATES = (16000, 22050, 32000, 44100, 48000)


class HearModel(nn.Module):
    """A model as the benchmark wants it: `sample_rate`, `scene_embedding_size`, `timestamp_embedding_size`."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self.listener, self.classifier = listener, listener.model
        self.sample_rate = listener.sample_rate
        self.scene_embedding_size = self.timestamp_embedding_size = int(listener.model.config.width)

    def forward(self, audio: Tensor) -> Tensor:
        """(n, l) sounds at the model's rate to (n, d) scene embeddings."""
        return get_scene_embeddings(audio, self)


def load_model(model_file_path: str = "") -> HearModel:
    """A model folder as a HEAR model.

    Raises:
        AudiolibError: no model folder, or a sample rate that the benchmark does not have.
    """
    if not Path(model_file_path).is_dir():
        raise AudiolibError(f"{model_file_path or 'the empty path'} is no model folder")
    listener = Listener(model_file_path)
    if listener.sample_rate not in SAMPLE_RATES:
        raise AudiolibError(f"HEAR has no sounds at {listener.sample_rate} Hz, which this model wants")
    return HearModel(listener)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One embedding a sound: the mean over windows of the length that the model was trained at.

    Args:
        audio: (n, l) in [-1, 1] at `model.sample_rate`.
        model: from `load_model`.

    Returns:
        (n, d) float32.
    """
    window = model.listener.own_seconds
    length = round(window * model.sample_rate)
    starts = list(range(0, max(1, audio.shape[1] - length + 1), length))
    if audio.shape[1] > length and starts[-1] + length < audio.shape[1]:
        starts.append(audio.shape[1] - length)
    pieces = [row[start : start + length] for row in _rows(audio) for start in starts]
    return _embed(pieces, window, model).unflatten(0, (len(audio), len(starts))).mean(1)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embeddings of what is heard around regular times; silence is heard before the beginning and after the end.

    Args:
        audio: (n, l) in [-1, 1] at `model.sample_rate`.
        model: from `load_model`.

    Returns:
        (n, t, d) float32 embeddings, and (n, t) their times in milliseconds.
    """
    rate, window = model.sample_rate, min(TIMESTAMP_WINDOW, model.listener.own_seconds)
    length = round(window * rate)
    count = int(audio.shape[1] / rate * 1000 // TIMESTAMP_MS) + 1
    times = np.arange(count) * TIMESTAMP_MS
    # From the number, not by adding up: rounded steps would drift.
    starts = [round(float(time) / 1000 * rate) for time in times]
    padded = [np.pad(row, (length // 2, length)) for row in _rows(audio)]
    pieces = [row[start : start + length] for row in padded for start in starts]
    found = _embed(pieces, window, model).unflatten(0, (len(audio), count))
    return found, torch.from_numpy(times).float().repeat(len(audio), 1).to(found.device)


def _rows(audio: Tensor) -> list[np.ndarray]:
    if audio.ndim != 2:
        raise ValueError(f"audio is (sounds, samples), not {tuple(audio.shape)}")
    return list(audio.detach().cpu().numpy().astype(np.float32))


def _embed(pieces: list[np.ndarray], window: float, model: HearModel) -> Tensor:
    sounds = (("", 0.0, window, piece) for piece in pieces)
    return torch.cat([found for _, found in model.listener.batches(sounds, window)]).float()
