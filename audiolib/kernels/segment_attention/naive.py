"""Segment attention as its definition: one dense score matrix, other segments masked."""

import torch
from torch import Tensor


def naive(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float | None = None) -> Tensor:
    """See the contract in `__init__.py`; any dtype, quadratic in the whole pack."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(query.device)
    scores = torch.einsum("ihk,jhk->hij", query, key) * scale
    scores = scores.masked_fill(segment[:, None] != segment[None, :], float("-inf"))
    return torch.einsum("hij,jhk->ihk", scores.softmax(-1), value)
