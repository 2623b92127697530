"""Selective scan by the CUDA kernel of the Mamba authors (package `mamba-ssm`), where it is installed and built.

That kernel takes batches of equal length and scans forward alone: segments of the same length go together, and a
reverse scan is a forward one of flipped tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from audiolib.errors import KernelUnavailable

# What the package calls selective_scan_fn: u, delta and z (m, e, l), A (e, j), B and C (m, j, l), D and delta_bias
# (e,). It returns (m, e, l) and, if asked, the last states (m, e, j).
Kernel = Callable[..., Tensor | tuple[Tensor, Tensor]]


def mamba_ssm(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    softplus: bool = True,
    lengths: tuple[int, ...],
    reverse: bool = False,
    first: Tensor | None = None,
    return_last: bool = False,
    kernel: Kernel | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """See the contract in `__init__.py`. `kernel` is the package's function unless told.

    Raises:
        KernelUnavailable: the package or its kernel is absent, or a first state is given, which it cannot take.
    """
    if first is not None:
        raise KernelUnavailable("mamba_ssm cannot start from a state, as streaming does; use triton or cpp")
    run = kernel or packaged()
    outs, lasts, places, owners = [], [], [], []
    for segments, tokens in _groups(lengths, reverse, u.device):
        # The kernel wants what varies over tokens in one dtype, and the rest in float32.
        rows = [None if part is None else _batched(part.to(u.dtype), tokens) for part in (u, delta, B, C, z)]
        d, bias = (None if part is None else part.float() for part in (D, delta_bias))
        options = {"delta_softplus": softplus, "return_last_state": True}
        out, last = run(rows[0], rows[1], A.float(), rows[2], rows[3], d, rows[4], bias, **options)
        outs.append(out.transpose(1, 2).flatten(0, 1))
        lasts.append(last.detach().float())
        places.append(tokens.flatten())
        owners.append(segments)
    packed = torch.cat(outs)[torch.cat(places).argsort()].to(u.dtype)
    return (packed, torch.cat(lasts)[torch.cat(owners).argsort()]) if return_last else packed


def _groups(lengths: tuple[int, ...], reverse: bool, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """For each length: the segments that have it (m,), and their tokens in the order of the scan (m, l)."""
    count = torch.tensor(lengths)
    begin = count.cumsum(0) - count
    found = []
    for length in sorted(set(lengths)):
        same = (count == length).nonzero()[:, 0]
        tokens = begin[same, None] + torch.arange(length)
        found.append((same.to(device), (tokens.flip(1) if reverse else tokens).to(device)))
    return found


def _batched(rows: Tensor, tokens: Tensor) -> Tensor:
    """(n, x) to (m, x, l)."""
    return rows[tokens].transpose(1, 2).contiguous()


def packaged() -> Kernel:
    """The package's function.

    Raises:
        KernelUnavailable: the package or its kernel is absent.
    """
    try:
        import selective_scan_cuda  # noqa: F401  The compiled part; some versions of the package do without.
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError as error:
        raise KernelUnavailable(f"train.scan=mamba_ssm needs mamba-ssm with its CUDA kernel: {error}") from error
    return selective_scan_fn
