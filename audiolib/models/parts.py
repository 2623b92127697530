"""Parts of a transformer on packed tokens: attention inside each clip, MLP, block."""

import torch
from torch import Tensor, nn

from audiolib.kernels.segment_attention import IMPLEMENTATIONS


class Attention(nn.Module):
    """Multi-head self-attention that never looks beyond a clip.

    Args:
        width: d.
        heads: h.
        impl: which implementation of `kernels/segment_attention` runs.
    """

    def __init__(self, width: int, heads: int, impl: str = "grouped") -> None:
        super().__init__()
        self.heads = heads
        self.attend = IMPLEMENTATIONS[impl]
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """(n, d) tokens of clips with `lengths` tokens each."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)  # each (n, h, k)
        return self.project(self.attend(query, key, value, lengths=lengths).flatten(1))


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.grow = nn.Linear(width, hidden)
        self.shrink = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.shrink(nn.functional.gelu(self.grow(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """(n, d) tokens of clips with `lengths` tokens each."""
        x = x + self.attention(self.norm1(x), lengths)
        return x + self.mlp(self.norm2(x))


def insert_prefix(x: Tensor, prefix: Tensor, lengths: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """Put the same prefix tokens (k, d) before the tokens of every clip."""
    longer = tuple(length + len(prefix) for length in lengths)
    if len(set(lengths)) == 1:
        clips = x.unflatten(0, (len(lengths), -1))
        return torch.cat([prefix.expand(len(lengths), -1, -1), clips], dim=1).flatten(0, 1), longer
    return torch.cat([part for clip in x.split(lengths) for part in (prefix, clip)]), longer


def take_prefix(x: Tensor, count: int, lengths: tuple[int, ...]) -> Tensor:
    """The first `count` tokens of every clip: (m, count, d)."""
    if len(set(lengths)) == 1:
        return x.unflatten(0, (len(lengths), -1))[:, :count]
    return torch.stack([clip[:count] for clip in x.split(lengths)])
