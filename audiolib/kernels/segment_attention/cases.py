"""The packs on which every implementation is checked: ragged, one token, one segment, many, odd lengths."""

from typing import Any

import torch
from torch import Tensor

from audiolib.kernels import check

# A fused backward starts from the rounded logarithm of a sum of exponentials. Spelled out like that in float32,
# gradients of these cases lose twice what the naive version loses (torch's own tests allow its kernel 8 to 150 times).
GRADIENT_FACTOR = 2 * check.GRADIENT_FACTOR

# name: (lengths of the segments, heads, width of a head)
CASES: dict[str, tuple[tuple[int, ...], int, int]] = {
    "one token": ((1,), 1, 8),
    "one clip": ((63,), 2, 16),
    "equal": ((24, 24, 24), 3, 16),
    "ragged": ((1, 17, 40, 3, 17, 1), 3, 32),
    "64 clips": (tuple(1 + (7 * i) % 13 for i in range(64)), 2, 16),
    "long and short": ((257, 2, 2), 1, 64),
    "narrow heads": ((5, 3, 9), 2, 8),
}


def inputs(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """query, key and value of a case, and its other arguments."""
    lengths, heads, width = CASES[name]
    random = torch.Generator().manual_seed(seed)
    shape = (sum(lengths), heads, width)
    tensors = {part: torch.randn(shape, generator=random, dtype=dtype) for part in ("query", "key", "value")}
    return tensors, {"lengths": lengths}
