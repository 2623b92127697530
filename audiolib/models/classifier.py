"""What every model of this library is: patches of any size in, logits of each clip out."""

from typing import Protocol

import torch
from torch import Tensor, nn

from audiolib.batches import Batch
from audiolib.models.parts import kept_tokens
from audiolib.models.patch import PatchEmbed
from audiolib.models.positions import Size
from audiolib.models.resize import Resize


class ClassifierConfig(Protocol):
    """The fields that all configs share; meanings as in `PatchEmbed`."""

    num_classes: int
    width: int
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

    def forward(self, batch: Batch, patch: Size | None = None) -> Tensor:
        """Classify a pack of clips.

        Args:
            batch: clips end to end, each of any length.
            patch: (mel bands, frames) of a patch; null = the stored kernel's size.

        Returns:
            (m, c) logits.
        """
        return self.head(self.embeddings(batch, patch))

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
