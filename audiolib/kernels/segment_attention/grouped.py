"""Segment attention segment by segment, without any mask: segments of equal length go through one call."""

from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

LONGEST_SPELLED_OUT = 1025  # Tokens.


def grouped(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float | None = None) -> Tensor:
    """See the contract in `__init__.py`; linear in the number of segments, each quadratic in its own length."""
    runs = [(length, len(list(members))) for length, members in groupby(lengths)]
    if len(runs) == 1:
        return _equal(query, key, value, lengths[0], scale)
    if len(runs) == len(set(lengths)):  # Equal lengths lie side by side, as the loader leaves them: nothing is copied.
        sizes = [length * count for length, count in runs]
        parts = zip(*(tensor.split(sizes) for tensor in (query, key, value)), runs, strict=True)
        return torch.cat([_equal(q, k, v, length, scale) for q, k, v, (length, _) in parts])
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    pieces = [tensor.split(lengths) for tensor in (query, key, value)]
    q, k, v = (torch.cat([piece[place] for place in order]) for piece in pieces)
    ordered = tuple(lengths[place] for place in order)
    out = grouped(q, k, v, ordered, scale).split(ordered)
    back = sorted(range(len(order)), key=lambda place: order[place])
    return torch.cat([out[place] for place in back])


def _equal(query: Tensor, key: Tensor, value: Tensor, length: int, scale: float | None) -> Tensor:
    shape = (-1, length, *query.shape[1:])
    q, k, v = (tensor.reshape(shape).transpose(1, 2) for tensor in (query, key, value))  # (m, h, length, k)
    attend = _spelled_out if _fused_is_slow(q) else scaled_dot_product_attention
    return attend(q, k, v, scale=scale).transpose(1, 2).reshape(query.shape)


def _fused_is_slow(query: Tensor) -> bool:
    """torch's fused bfloat16 backward on a CPU leaves its matrix unit idle (torch 2.11): 4.6 times slower at 49 tokens.
    It is even at 1,025; from there on the scores, which it does not keep, would be most of a training's memory."""
    short = query.shape[-2] <= LONGEST_SPELLED_OUT
    return short and query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad


def _spelled_out(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return ((query * scale) @ key.transpose(-1, -2)).softmax(-1) @ value
