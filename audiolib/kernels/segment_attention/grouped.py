"""Segment attention by torch's fused kernel: segments of equal length go through one call, without any mask."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def grouped(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float | None = None) -> Tensor:
    """See the contract in `__init__.py`; linear in the number of segments, each quadratic in its own length."""
    if len(set(lengths)) == 1:
        return _equal(query, key, value, lengths[0], scale)
    pieces = [tensor.split(lengths) for tensor in (query, key, value)]
    places: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        places.setdefault(length, []).append(place)
    out: list[Tensor | None] = [None] * len(lengths)
    for length, members in places.items():
        q, k, v = (torch.cat([piece[place] for place in members]) for piece in pieces)
        for place, part in zip(members, _equal(q, k, v, length, scale).split(length), strict=True):
            out[place] = part
    return torch.cat(out)


def _equal(query: Tensor, key: Tensor, value: Tensor, length: int, scale: float | None) -> Tensor:
    shape = (-1, length, *query.shape[1:])
    q, k, v = (tensor.reshape(shape).transpose(1, 2) for tensor in (query, key, value))  # (m, h, length, k)
    out = scaled_dot_product_attention(q, k, v, scale=scale)
    return out.transpose(1, 2).reshape(query.shape)
