"""Selective scan, the recurrence of Mamba, inside each segment of a pack (papers.md 4.1).

For every channel and state, along the tokens of a segment:
    step_t  = softplus(delta_t + delta_bias)
    state_t = exp(step_t A) state_(t-1) + step_t B_t u_t
    y_t     = C_t state_t + D u_t
    out_t   = y_t silu(z_t)

Contract of every implementation, called as `scan(u, delta, A, B, C, ...)`:
    u, delta     (n, e) tokens of all segments end to end, and their steps before bias and softplus
    A            (e, j), negative
    B, C         (n, j)
    D            (e,) or null: no direct term
    z            (n, e) or null: no gate
    delta_bias   (e,) or null
    softplus     whether steps go through softplus
    lengths      tokens of each segment, summing to n; on the host
    reverse      scan each segment from its last token to its first
    first        (m, e, j) state before each segment; null = zeros; takes no gradient
    returns      (n, e), and with `return_last` also the states (m, e, j) after each segment, which take no gradient
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from audiolib.kernels.selective_scan.cpp import cpp
from audiolib.kernels.selective_scan.mamba_package import mamba_ssm
from audiolib.kernels.selective_scan.naive import naive
from audiolib.kernels.selective_scan.triton_scan import triton, triton_both

IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {"naive": naive, "cpp": cpp, "triton": triton, "mamba_ssm": mamba_ssm}


def choose(device: torch.device, dtype: torch.dtype) -> str:
    """The fastest implementation that can run there; float64 is for checking, which `naive` alone can."""
    if dtype == torch.float64:
        return "naive"
    return "triton" if device.type == "cuda" else "cpp"


def scan_both(impl: str, u: Tensor, delta: Tensor, A: Tensor, back_A: Tensor, *rest: Tensor, **options: Any) -> Tensor:
    """The sum of a forward scan with A and a reverse one with `back_A`; where there is a kernel for both, in one go."""
    if impl == "triton":
        return triton_both(u, delta, A, back_A, *rest, **options)
    scan = IMPLEMENTATIONS[impl]
    return scan(u, delta, A, *rest, **options) + scan(u, delta, back_A, *rest, reverse=True, **options)
