"""Segment attention by FlexAttention with a block mask: any GPU that Triton compiles for, any float dtype."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from audiolib.errors import KernelUnavailable

LEAST_WIDTH = 16  # Of a head, compiled; zeros beside a narrower one change nothing.


def flex(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float | None = None) -> Tensor:
    """See the contract in `__init__.py`; blocks of the score matrix that lie between segments are never computed.

    On the CPU it is torch's uncompiled version, forward only, which is there to check the mask.

    Raises:
        KernelUnavailable: training on a CPU.
    """
    if not query.is_cuda and torch.is_grad_enabled() and query.requires_grad:
        raise KernelUnavailable("train.attention=flex trains on a GPU alone; use auto")
    from torch.nn.attention.flex_attention import flex_attention

    attend, width = _compiled() if query.is_cuda else flex_attention, query.shape[-1]
    scale = width**-0.5 if scale is None else scale
    wider = (pad(tensor, (0, max(0, LEAST_WIDTH - width))) for tensor in (query, key, value))
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in wider)  # (1, h, n, k)
    out = attend(q, k, v, block_mask=_mask(lengths, query.device), scale=scale)
    return out[0].transpose(0, 1)[..., :width]


@lru_cache(maxsize=16)
def _mask(lengths: tuple[int, ...], device: torch.device) -> "object":
    """The block mask of a pack, made once for all blocks of a model."""
    from torch.nn.attention.flex_attention import create_block_mask

    with torch.inference_mode(False):
        segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
        count = len(segment)

        def same(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return segment[q] == segment[k]

        return create_block_mask(same, None, None, count, count, device=str(device))


@lru_cache(maxsize=1)
def _compiled() -> "object":
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
