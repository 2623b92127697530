"""Parts of a transformer on packed tokens: attention inside each clip, MLP, block, pooling, token dropout."""

import numpy as np
import torch
from torch import Tensor, nn

from audiolib.kernels.segment_attention import IMPLEMENTATIONS, choose


class Attention(nn.Module):
    """Multi-head self-attention that never looks beyond a clip.

    Args:
        width: d.
        heads: h.
        scale: factor of the scores; null = 1 / sqrt(d / h).
        impl: which implementation of `kernels/segment_attention` runs; `auto` is the fastest for the tokens' device.
    """

    def __init__(self, width: int, heads: int, scale: float | None = None, impl: str = "auto") -> None:
        super().__init__()
        self.heads, self.scale, self.impl = heads, scale, impl
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """(n, d) tokens of clips with `lengths` tokens each."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)  # each (n, h, k)
        impl = self.impl
        if impl == "auto":
            impl = choose(x.device, query.dtype, equal=len(set(lengths)) == 1)
        attend = IMPLEMENTATIONS[impl]
        return self.project(attend(query, key, value, lengths=lengths, scale=self.scale).flatten(1))


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

    def __init__(self, width: int, heads: int, eps: float, scale: float | None = None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, heads, scale)
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


class AttentionPool(nn.Module):
    """One vector for each clip: a learned query attends to the clip's tokens alone (ElasticAST; papers.md 5.1).

    Args:
        width: d.
        heads: h.
        scale: as in `Attention`.
    """

    def __init__(self, width: int, heads: int, scale: float | None = None) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.query = nn.Parameter(torch.empty(1, width))
        self.kv = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """(n, d) tokens to (m, d)."""
        key, value = self.kv(x).unflatten(-1, (2, self.heads, -1)).unbind(1)  # each (n, h, k)
        query = self.query.reshape(self.heads, -1)
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        share = segment_softmax((key * query).sum(-1).float() * scale, lengths)  # (n, h)
        # In float32, and so is the sum: one by one in bfloat16, a thousand tokens add up to half of what they are.
        pooled = segment_sum(share[..., None] * value.float(), lengths)
        return self.project(pooled.flatten(1).to(value))


def segment_sum(x: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """(n, ...) to (m, ...): the sum over each segment, added up in the same order whatever lies beside it.

    In float32 at least, as `segment_mean` is; the result is not rounded back.
    """
    return torch.segment_reduce(_wide(x), "sum", lengths=_on(x.device, lengths), unsafe=True)


def segment_mean(x: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """(n, ...) to (m, ...): the mean over each segment."""
    return torch.segment_reduce(_wide(x), "mean", lengths=_on(x.device, lengths), unsafe=True)


def segment_softmax(x: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """(n, h) scores to shares that sum to 1 over each segment."""
    sizes = _on(x.device, lengths)
    spread = torch.repeat_interleave(torch.arange(len(lengths), device=x.device), sizes, output_size=len(x))
    largest = torch.segment_reduce(x.detach(), "max", lengths=sizes, unsafe=True)
    raised = (x - largest[spread]).exp()
    return raised / segment_sum(raised, lengths)[spread]


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _on(device: torch.device, lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor(lengths).to(device, non_blocking=True)


def kept_tokens(count: int, dropout: float) -> int:
    """Tokens of a clip that token dropout leaves; never none."""
    return max(1, int((1 - dropout) * count + 1e-9))  # (1 - 0.9) * 20 is a little less than 2.


def drop_tokens(
    x: Tensor, lengths: tuple[int, ...], dropout: float, draws: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """Leave out a random part of every clip's tokens (papers.md 5.1).

    Args:
        x: (n, d).
        lengths: tokens of each clip.
        dropout: share that is left out.
        draws: a random number for each clip; it alone decides which of the clip's tokens stay.

    Raises:
        ValueError: the batch came without them.
    """
    if len(draws) != len(lengths):
        raise ValueError("token dropout needs Batch.draws, a number for each clip; or call model.eval()")
    kept = tuple(kept_tokens(length, dropout) for length in lengths)
    first = np.cumsum([0, *lengths[:-1]])
    place = np.arange(len(x)) - np.repeat(first, lengths)
    clip = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((_scattered(np.repeat(np.array(draws, np.uint64), lengths), place), clip))
    chosen = order[place < np.repeat(kept, lengths)]
    chosen.sort()
    return x[torch.from_numpy(chosen).to(x.device, non_blocking=True)], kept


def _scattered(draw: np.ndarray, place: np.ndarray) -> np.ndarray:
    """A random 64-bit number for each (draw, place): the output function of the SplitMix64 generator."""
    z = draw + (place.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
