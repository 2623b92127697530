"""Causal convolution as a sum of shifted copies."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import silu


def naive(x: Tensor, weight: Tensor, bias: Tensor, lengths: tuple[int, ...], *, reverse: bool = False) -> Tensor:
    """See the contract in `__init__.py`."""
    # What is traced must not be kept.
    place = (places.__wrapped__ if torch.compiler.is_compiling() else places)(lengths, reverse, x.device)
    out = torch.addcmul(bias, x, weight[:, -1])
    for back in range(1, weight.shape[1]):
        moved = x.roll(-back if reverse else back, 0).masked_fill((place < back)[:, None], 0.0)
        out = torch.addcmul(out, moved, weight[:, -1 - back])
    return silu(out)


@lru_cache(maxsize=16)
def places(lengths: tuple[int, ...], reverse: bool, device: torch.device) -> Tensor:
    """How many tokens of its clip each token is away from the first that is heard; all blocks of a model ask for it."""
    with torch.inference_mode(False):
        sizes = torch.tensor(lengths)
        places = torch.arange(int(sizes.sum())) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        if reverse:
            places = sizes.repeat_interleave(sizes) - 1 - places
        return places.to(device, non_blocking=True)
