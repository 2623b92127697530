"""What every model of this library is: patches of any size in, logits of each clip out."""

from typing import Protocol

import torch
from torch import Tensor, nn

from audiolib.batches import Batch
from audiolib.errors import AudiolibError
from audiolib.models.parts import kept_tokens
from audiolib.models.patch import PatchEmbed
from audiolib.models.positions import Size, as_size
from audiolib.models.resize import Resize


class ClassifierConfig(Protocol):
    """The fields that all configs share; meanings as in `PatchEmbed`."""

    num_classes: int
    width: int
    depth: int
    frames: int
    mel_bins: int
    patch: Size
    stride: Size | None
    layout: str
    positions: str
    border: str
    resize: Resize
    token_dropout: float


class Classifier(nn.Module):
    """Base of the models: `model(batch, patch)` gives (m, c) logits."""

    head: nn.Linear

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.embed = PatchEmbed(
            config.width,
            config.mel_bins,
            config.frames,
            config.patch,
            config.stride,
            config.layout,
            config.positions,
            config.border,
            config.resize,
        )

    def forward(self, batch: Batch, patch: Size | int | None = None) -> Tensor:
        """Classify a pack of clips.

        Args:
            batch: clips end to end, each of any length.
            patch: (mel bands, frames) of a patch, or a number for a square; null = the stored kernel's size.

        Returns:
            (m, c) logits.
        """
        return self.head(self.embeddings(batch, None if patch is None else as_size("patch", patch)))

    def embeddings(self, batch: Batch, patch: Size | None = None) -> Tensor:
        """(m, d): what the head sees of each clip."""
        raise NotImplementedError

    def init_weights(self, generator: torch.Generator) -> None:
        """All initialisation."""
        raise NotImplementedError

    def use_kernels(self, *, attention: str, scan: str) -> str:
        """Choose implementations of the kernels by name; says which of them the model uses."""
        raise NotImplementedError

    def macs(self, frames: int, patch: Size | None = None) -> int:
        """Multiply-accumulates of one clip's forward pass."""
        raise NotImplementedError

    def tokens(self, frames: int, patch: Size | None = None) -> int:
        """Patches of a clip of `frames` frames."""
        patch = patch or self.config.patch
        return self.embed.count(self.config.mel_bins, 0, patch) * self.embed.count(frames, 1, patch)

    def trained_tokens(self, frames: int, patch: Size | None = None) -> int:
        """Patches of a clip of `frames` frames that token dropout leaves."""
        return kept_tokens(self.tokens(frames, patch), self.config.token_dropout)


def _check(config: ClassifierConfig) -> None:
    for name in ("num_classes", "width", "depth", "frames", "mel_bins"):
        if getattr(config, name) < 1:
            raise AudiolibError(f"{name} has to be at least 1, not {getattr(config, name)}")
    if config.width % 4:
        raise AudiolibError(f"width {config.width} has to be a multiple of 4")
    if not 0 <= config.token_dropout < 1:
        raise AudiolibError(f"token_dropout is a share from 0 to less than 1, not {config.token_dropout}")
