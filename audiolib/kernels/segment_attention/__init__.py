"""Attention inside each segment of a pack: out_i = sum_j softmax_j(scale q_i . k_j) v_j, j in i's segment.

Contract of every implementation, called as `attend(query, key, value, lengths=..., scale=...)`:
    query, key, value  (n, h, k) tokens of all segments end to end
    lengths            tokens of each segment, summing to n; on the host
    scale              factor of the scores, 1 / sqrt(k) unless told
    returns            (n, h, k)
"""

from collections.abc import Callable

import torch
from torch import Tensor

from audiolib.kernels.segment_attention.flex import flex
from audiolib.kernels.segment_attention.grouped import grouped
from audiolib.kernels.segment_attention.naive import naive
from audiolib.kernels.segment_attention.varlen import varlen

IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "naive": naive,
    "grouped": grouped,
    "varlen": varlen,
    "flex": flex,
}


def choose(device: torch.device, dtype: torch.dtype, *, equal: bool) -> str:
    """The fastest implementation that can run there; segments of one length are a plain batch for `grouped`.

    So it is on a GPU in float32, and in half precision where FlashAttention cannot run. Against FlexAttention it was
    once faster on an H200 (a step of 23 to 27 ms, not 37 to 41; no row is kept) and once slower (39 and 32 ms, the rows
    of `python -m audiolib.bench packing --device cuda`): the host that launches decides, and it compiles nothing.
    """
    if equal or device.type != "cuda":
        return "grouped"
    half = dtype in (torch.float16, torch.bfloat16)
    return "varlen" if half and torch.cuda.get_device_capability(device) >= (8, 0) else "grouped"
