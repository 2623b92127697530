"""Causal convolution as a sum of shifted copies."""

import torch
from torch import Tensor
from torch.nn.functional import silu


def naive(x: Tensor, weight: Tensor, bias: Tensor, lengths: tuple[int, ...], *, reverse: bool = False) -> Tensor:
    """See the contract in `__init__.py`."""
    places = torch.cat([torch.arange(length) for length in lengths])
    if reverse:
        places = torch.tensor(lengths).repeat_interleave(torch.tensor(lengths)) - 1 - places
    places = places.to(x.device, non_blocking=True)
    out = torch.addcmul(bias, x, weight[:, -1])
    for back in range(1, weight.shape[1]):
        moved = x.roll(-back if reverse else back, 0).masked_fill((places < back)[:, None], 0.0)
        out = torch.addcmul(out, moved, weight[:, -1 - back])
    return silu(out)
