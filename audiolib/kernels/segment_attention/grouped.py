"""Segment attention segment by segment, without any mask: segments of equal length go through one call."""

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
    attend = _spelled_out if _fused_is_slow(q) else scaled_dot_product_attention
    return attend(q, k, v, scale=scale).transpose(1, 2).reshape(query.shape)


def _fused_is_slow(query: Tensor) -> bool:
    """torch's fused bfloat16 backward on a CPU does not use its matrix unit (torch 2.11): 4.6 times slower at 49 tokens
    and even only at 1,025."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad


def _spelled_out(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return ((query * scale) @ key.transpose(-1, -2)).softmax(-1) @ value
