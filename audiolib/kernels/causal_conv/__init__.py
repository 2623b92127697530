"""Causal depthwise convolution and SiLU inside each segment of a pack: what Mamba has before its scan (papers.md 4.1).

    out_t = silu(bias + sum over k of weight[:, w - 1 - k] x_(t - k)), with zeros before a segment's first token

Contract of every implementation, called as `conv(x, weight, bias, lengths)`:
    x         (n, e) tokens of all segments end to end
    weight    (e, w); the last column meets the token itself
    bias      (e,)
    lengths   tokens of each segment, summing to n; on the host
    reverse   whether the past of a token is what comes after it
    returns   (n, e)
"""

from collections.abc import Callable

from torch import Tensor

from audiolib.kernels.causal_conv.cpp import cpp
from audiolib.kernels.causal_conv.naive import naive
from audiolib.kernels.causal_conv.triton_conv import triton

IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {"naive": naive, "cpp": cpp, "triton": triton}


def beside(scan: str) -> str:
    """The implementation that goes with one of the selective scan."""
    return scan if scan in IMPLEMENTATIONS else "naive"
