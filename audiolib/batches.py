"""The one batch type: clips laid end to end in time; equal lengths are a special case."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A pack of clips.

    Attributes:
        mel: (s, f) normalised log-mel of all clips, one after another.
        lengths: frames of each of the m clips; on the host, so that no kernel launch waits for them.
        stretch: hop of each clip's frames over the hop that the model's positions are counted in; 2 where two frames
            were pooled into one. A position is a time, whatever the resolution.
        target: (m, c) class probabilities (or 0/1 per label for multi-label corpora); null when unknown.
        draws: a random number for each clip, which decides what training drops of it; empty when nothing is dropped.
        weight: what the batch's mean loss counts for among the workers' batches of a step: with it their mean is the
            mean over all clips.
    """

    mel: Tensor
    lengths: tuple[int, ...]
    stretch: tuple[float, ...]
    target: Tensor | None = None
    draws: tuple[int, ...] = ()
    weight: float = 1.0

    def __post_init__(self) -> None:
        if sum(self.lengths) != len(self.mel) or len(self.lengths) != len(self.stretch):
            raise ValueError(f"{len(self.mel)} frames, {len(self.stretch)} stretches, but lengths {self.lengths}")
        if min(self.lengths, default=1) < 1:
            raise ValueError(f"a clip of a batch has no frames: lengths {self.lengths}")
        if self.draws and len(self.draws) != len(self.lengths):
            raise ValueError(f"{len(self.draws)} draws for {len(self.lengths)} clips")

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        target = None if self.target is None else self.target.to(device, non_blocking=True)
        return replace(self, mel=self.mel.to(device, non_blocking=True), target=target)

    def pin_memory(self) -> "Batch":
        """The same batch where a GPU can fetch it while the host goes on; torch's DataLoader calls this."""
        target = None if self.target is None else self.target.pin_memory()
        return replace(self, mel=self.mel.pin_memory(), target=target)


def pack(
    clips: Sequence[Tensor | np.ndarray],
    target: Tensor | None = None,
    stretch: Sequence[float] | None = None,
    draws: tuple[int, ...] = (),
    weight: float = 1.0,
) -> Batch:
    """Lay clips of (t, f), tensors or NumPy arrays, end to end."""
    lengths = tuple(len(clip) for clip in clips)
    mel = torch.cat([torch.as_tensor(clip) for clip in clips])
    return Batch(mel, lengths, tuple(stretch or [1.0] * len(clips)), target, draws, weight)


def pooled(mel: Tensor, factor: int, method: str) -> Tensor:
    """Make one frame of `factor` frames of equal clips (papers.md 3.1).

    Args:
        mel: (m, t, f).
        factor: a remainder at the end is averaged (or maximised) over what there is.
        method: `avg_pool` or `max_pool`; not looked at when the factor is 1.

    Returns:
        (m, ceil(t / factor), f).
    """
    if factor == 1:
        return mel
    series = mel.transpose(1, 2)
    if method == "avg_pool":
        coarse = torch.nn.functional.avg_pool1d(series, factor, ceil_mode=True, count_include_pad=False)
    else:
        coarse = torch.nn.functional.max_pool1d(series, factor, ceil_mode=True)
    return coarse.transpose(1, 2)
