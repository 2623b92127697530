"""Segment attention by FlashAttention's variable-length kernel, through torch: CUDA, float16 or bfloat16."""

from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from audiolib.errors import KernelUnavailable


def varlen(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float | None = None) -> Tensor:
    """See the contract in `__init__.py`; one launch for the whole pack, no mask.

    Raises:
        KernelUnavailable: on a CPU, or in float32.
    """
    if not query.is_cuda or query.dtype == torch.float32:
        raise KernelUnavailable("train.attention=varlen needs a GPU and bfloat16; use auto")
    from torch.nn.attention.varlen import varlen_attn  # Imported late: builds without CUDA do not need it.

    bounds, longest = _bounds(lengths, query.device), max(lengths)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    parts = (tensor.contiguous() for tensor in (query, key, value))
    return varlen_attn(*parts, bounds, bounds, longest, longest, scale=scale)


@lru_cache(maxsize=16)
def _bounds(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Cumulative lengths on the device, sent once for all blocks of a model."""
    with torch.inference_mode(False):
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)
