"""AST and FlexiAST: one class, for the patch size is an argument of the call (papers.md 1.4, 2.1).

Not included: dropout, stochastic depth, fused cross-clip attention.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from audiolib.batches import Batch
from audiolib.models.parts import Block, insert_prefix, take_prefix
from audiolib.models.patch import PatchEmbed, Resize, Size, sine_grid


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a spectrogram transformer; field meanings as in `PatchEmbed`.

    `prefix_tokens` is 1 (class token) or 2 (class and distillation token, averaged, as in AST from DeiT).
    `norm_eps` and `head_norm_eps` are those of AST's code.
    """

    num_classes: int
    width: int
    depth: int
    heads: int
    frames: int = 1024
    mel_bins: int = 128
    patch: Size = (16, 16)
    stride: Size | None = None
    positions: str = "stretch"
    border: str = "pad"
    resize: Resize = field(default_factory=Resize)
    prefix_tokens: int = 1
    norm_eps: float = 1e-6
    head_norm_eps: float = 1e-5


class SpectrogramTransformer(nn.Module):
    """A ViT on log-mel patches; `model(batch, patch)` gives the logits of each clip."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        self.embed = PatchEmbed(
            d,
            config.mel_bins,
            config.frames,
            config.patch,
            config.stride,
            config.positions,
            config.border,
            config.resize,
        )
        self.prefix = nn.Parameter(torch.empty(config.prefix_tokens, d))
        self.prefix_positions = nn.Parameter(torch.empty(config.prefix_tokens, d))
        self.blocks = nn.ModuleList(Block(d, config.heads, config.norm_eps) for _ in range(config.depth))
        self.norm = nn.LayerNorm(d, eps=config.norm_eps)
        self.head_norm = nn.LayerNorm(d, eps=config.head_norm_eps)
        self.head = nn.Linear(d, config.num_classes)

    def init_weights(self, generator: torch.Generator) -> None:
        """All initialisation.

        positions                 2-D sine and cosine, amplitude 0.5: neighbours are alike from the first step on, so
                                  that the grid can be read between its cells
        matrices, patch kernel    truncated normal, std 1 / sqrt(inputs); 0.02, as for large models, starts slowly
                                  at small widths
        prefix, head              truncated normal, std 0.02
        biases                    0;  norm weights 1
        """
        for name, parameter in self.named_parameters():
            if name == "embed.positions":
                parameter.data.copy_(0.5 * sine_grid(*parameter.shape))
            elif parameter.ndim > 1:
                small = name.startswith(("prefix", "head"))
                std = 0.02 if small else parameter[0].numel() ** -0.5
                trunc_normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, batch: Batch, patch: Size | None = None) -> Tensor:
        """Classify a pack of clips.

        Args:
            batch: clips end to end, each of any length.
            patch: (mel bands, frames) of a patch; null = the stored kernel's size.

        Returns:
            (m, c) logits.
        """
        # Patches and positions
        x, lengths = self.embed(batch.mel, batch.lengths, batch.stretch, patch or self.config.patch)
        # Class token
        x, lengths = insert_prefix(x, self.prefix + self.prefix_positions, lengths)
        # Encoder
        for block in self.blocks:
            x = block(x, lengths)
        # Pool and head
        pooled = take_prefix(self.norm(x), self.config.prefix_tokens, lengths).mean(1)
        return self.head(self.head_norm(pooled))

    def tokens(self, frames: int, patch: Size | None = None) -> int:
        """Patches of a clip of `frames` frames."""
        patch = patch or self.config.patch
        return self.embed.count(self.config.mel_bins, 0, patch) * self.embed.count(frames, 1, patch)

    def macs(self, frames: int, patch: Size | None = None) -> int:
        """Multiply-accumulates of one clip's forward pass: matrices, attention and patch projection (papers.md 1.6)."""
        patch = patch or self.config.patch
        patches = self.tokens(frames, patch)
        n, d = patches + self.config.prefix_tokens, self.config.width
        blocks = self.config.depth * (12 * n * d**2 + 2 * n**2 * d)
        return blocks + patches * patch[0] * patch[1] * d + d * self.config.num_classes
