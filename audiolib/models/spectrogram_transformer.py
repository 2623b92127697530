"""AST, FlexiAST and ElasticAST: one class, for the patch size and each clip's length and hop belong to the call.

The papers' parts are choices of its config (papers.md 1.4, 2.1, 5.1), so that they can be combined.

Not included: dropout of activations, stochastic depth.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from audiolib.batches import Batch
from audiolib.errors import AudiolibError, check_choice
from audiolib.models.classifier import Classifier
from audiolib.models.parts import (
    AttentionPool,
    Block,
    drop_tokens,
    insert_prefix,
    kept_tokens,
    segment_mean,
    take_prefix,
)
from audiolib.models.positions import Size
from audiolib.models.resize import Resize


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a spectrogram transformer; field meanings as in `PatchEmbed`.

    `prefix_tokens` is 1 (class token), 2 (class and distillation token, as in AST from DeiT) or 0. `pool` makes one
    vector of a clip: `prefix` averages these tokens, `mean` all, `attention` learns a query (papers.md 5.1).
    `token_dropout` is the share of tokens left out in training. `attention_scale` null is 1 / sqrt(d / h); the weights
    published with ElasticAST want 1. `norm_eps` and `head_norm_eps` are those of AST's code.
    """

    num_classes: int
    width: int
    depth: int
    heads: int
    frames: int = 1024
    mel_bins: int = 128
    patch: Size = (16, 16)
    stride: Size | None = None
    layout: str = "grid"
    positions: str = "stretch"
    border: str = "pad"
    resize: Resize = field(default_factory=Resize)
    prefix_tokens: int = 1
    pool: str = "prefix"
    token_dropout: float = 0.0
    attention_scale: float | None = None
    norm_eps: float = 1e-6
    head_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_choice("pool", self.pool, ("prefix", "attention", "mean"))
        if self.heads < 1 or self.width % 4 or self.width % self.heads:
            raise AudiolibError(f"width {self.width} has to be a multiple of 4 and of heads, which are {self.heads}")
        if (self.pool == "prefix") != (self.prefix_tokens > 0):
            raise AudiolibError("pool 'prefix' goes with prefix tokens, any other pool with prefix_tokens: 0")


class SpectrogramTransformer(Classifier):
    """A ViT on log-mel patches; `model(batch, patch)` gives the logits of each clip."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        d = config.width
        if config.prefix_tokens:
            self.prefix = nn.Parameter(torch.empty(config.prefix_tokens, d))
            self.prefix_positions = nn.Parameter(torch.empty(config.prefix_tokens, d))
        self.blocks = nn.ModuleList(
            Block(d, config.heads, config.norm_eps, config.attention_scale) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(d, eps=config.norm_eps)
        if config.pool == "attention":
            self.pool = AttentionPool(d, config.heads, config.attention_scale)
        self.head_norm = nn.LayerNorm(d, eps=config.head_norm_eps)
        self.head = nn.Linear(d, config.num_classes)

    def init_weights(self, generator: torch.Generator) -> None:
        """All initialisation.

        positions                 sines and cosines, see `positions.py`
        matrices, patch kernel    truncated normal, std 1 / sqrt(inputs); 0.02, as for large models, starts slowly
                                  at small widths
        prefix, query, head       truncated normal, std 0.02
        biases                    0;  norms as torch makes them, weight 1
        """
        self.embed.positions.init_weights()
        for name, parameter in self.named_parameters():
            if name.startswith("embed.positions"):
                continue
            if parameter.ndim > 1:
                small = name.startswith(("prefix", "head", "pool.query"))
                std = 0.02 if small else parameter[0].numel() ** -0.5
                trunc_normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def use_kernels(self, *, attention: str, scan: str) -> str:
        """Choose an implementation of `kernels/segment_attention` by name; a transformer scans nothing."""
        for block in self.blocks:
            block.attention.impl = attention
        return f"attention {attention}"

    def embeddings(self, batch: Batch, patch: Size | None = None) -> Tensor:
        """(m, d): what the head sees of each clip, see `Classifier.forward`."""
        config = self.config
        # Patches and positions
        x, lengths = self.embed(batch.mel, batch.lengths, batch.stretch, patch or config.patch)
        # Token dropout
        if self.training and config.token_dropout:
            x, lengths = drop_tokens(x, lengths, config.token_dropout, batch.draws)
        # Class token
        if config.prefix_tokens:
            x, lengths = insert_prefix(x, self.prefix + self.prefix_positions, lengths)
        # Encoder
        x = x.to(self.norm.weight.dtype)  # Float32 under autocast: sums over many blocks lose too much in bfloat16.
        for block in self.blocks:
            x = block(x, lengths)
        x = self.norm(x)
        # Pool
        if config.pool == "prefix":
            pooled = take_prefix(x, config.prefix_tokens, lengths).mean(1)
        else:
            pooled = self.pool(x, lengths) if config.pool == "attention" else segment_mean(x, lengths)
        return self.head_norm(pooled)

    def macs(self, frames: int, patch: Size | None = None) -> int:
        """Multiply-accumulates of one clip's forward pass: matrices, attention and patch projection (papers.md 1.6)."""
        config, patch = self.config, patch or self.config.patch
        patches, d = self.tokens(frames, patch), config.width
        seen = kept_tokens(patches, config.token_dropout) if self.training else patches
        n = seen + config.prefix_tokens
        blocks = config.depth * (12 * n * d**2 + 2 * n**2 * d)
        pool = 2 * n * d**2 + 2 * n * d + d**2 if config.pool == "attention" else 0
        return blocks + pool + patches * patch[0] * patch[1] * d + d * config.num_classes
