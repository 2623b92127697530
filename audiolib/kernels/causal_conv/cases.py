"""The packs on which every implementation is checked: one token, fewer than the window sees, odd lengths, ragged."""

from typing import Any

import torch
from torch import Tensor

from audiolib.kernels import check

GRADIENT_FACTOR = check.GRADIENT_FACTOR
CHANNELS, WINDOW = 37, 4

# name: lengths of the segments
CASES: dict[str, tuple[int, ...]] = {"one token": (1,), "two": (2,), "63": (63,), "ragged": (7, 1, 4, 130, 2, 3)}


def inputs(name: str, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """x, weight and bias of a case, and its other arguments."""
    return drawn(CASES[name], dtype), {"lengths": CASES[name]}


def drawn(lengths: tuple[int, ...], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The same for any lengths."""
    random = torch.Generator().manual_seed(0)
    shapes = {"x": (sum(lengths), CHANNELS), "weight": (CHANNELS, WINDOW), "bias": (CHANNELS,)}
    return {name: torch.randn(shape, generator=random, dtype=dtype) for name, shape in shapes.items()}
