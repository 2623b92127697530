"""Selective scan in Triton, for GPUs; on a CPU through Triton's interpreter (`TRITON_INTERPRET=1`), to check it."""

import os
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from audiolib.errors import KernelUnavailable

BLOCK, CHUNK = 32, 32


def triton(
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
) -> Tensor | tuple[Tensor, Tensor]:
    """See the contract in `__init__.py`; it computes in float32 and returns u's dtype.

    Raises:
        KernelUnavailable: tensors on a CPU, without the interpreter; or a number of states that is no power of two.
    """
    keep = torch.is_grad_enabled()
    out, last = _TritonScan.apply(u, delta, A[None], B, C, D, z, delta_bias, softplus, lengths, reverse, first, keep)
    return (out, last[0]) if return_last else out


def triton_both(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    back_A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    softplus: bool = True,
    lengths: tuple[int, ...],
) -> Tensor:
    """The sum of a forward scan with A and a reverse one with `back_A`, in one launch (Fo-Bi; papers.md 4.1).

    Raises:
        KernelUnavailable: see `triton`.
    """
    both, keep = torch.stack([A, back_A]), torch.is_grad_enabled()
    return _TritonScan.apply(u, delta, both, B, C, D, z, delta_bias, softplus, lengths, False, None, keep)[0]


class _TritonScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        bias: Tensor | None,
        softplus: bool,
        lengths: tuple[int, ...],
        reverse: bool,
        first: Tensor | None,
        keep: bool,  # Whether the states are kept from which a backward pass starts; in here gradients are always off.
    ) -> tuple[Tensor, Tensor]:
        if u.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise KernelUnavailable("train.scan=triton needs a GPU; use cpp")
        if (states := A.shape[2]) & (states - 1):
            raise KernelUnavailable(f"the Triton scan has a power of two of states, not {states}; set train.scan=naive")
        from audiolib.kernels.selective_scan.triton_kernels import scan_forward

        parts = [_rows(u), _rows(delta), _whole(A), _rows(B), _rows(C), _whole(D), _rows(z), _whole(bias)]
        (n, e), (ways, _, j) = u.shape, A.shape
        bounds, chunk_first, total = _bounds(lengths, u.device)
        save = keep and any(ctx.needs_input_grad)
        out = u.new_empty(ways, n, e, dtype=torch.float32)
        chunks = u.new_empty(ways, total if save else 0, e, j, dtype=torch.float32)
        last = u.new_empty(ways, len(lengths), e, j, dtype=torch.float32)
        before = None if first is None else first.float().contiguous()
        with torch.cuda.device_of(u):  # Triton launches on the current device, not on the tensors'.
            scan_forward[_grid(e, lengths, ways)](
                *_present(parts), bounds, chunk_first, before if before is not None else last, out, chunks, last,
                n, e, len(lengths), total, *_strides(parts), **_switches(parts, softplus, reverse),
                HAS_FIRST=before is not None, SAVE=save, J=j, BLOCK=BLOCK, CHUNK=CHUNK,
            )  # fmt: skip
        ctx.save_for_backward(*parts, chunks)
        ctx.options = (softplus, lengths, reverse)
        ctx.dtypes = [None if t is None else t.dtype for t in (u, delta, A, B, C, D, z, bias)]
        ctx.mark_non_differentiable(last)
        return out.sum(0).to(u.dtype), last

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _last: Tensor) -> tuple[Tensor | None, ...]:
        from audiolib.kernels.selective_scan.triton_kernels import scan_backward

        *parts, chunks = ctx.saved_tensors
        softplus, lengths, reverse = ctx.options
        u, a = parts[0], parts[2]
        (n, e), (ways, _, j), m = u.shape, a.shape, len(lengths)
        bounds, chunk_first, total = _bounds(lengths, u.device)
        blocks = -(-e // BLOCK)

        def empty(*shape: int) -> Tensor:
            return u.new_empty(shape, dtype=torch.float32)

        to_u, to_delta, to_z = empty(ways, n, e), empty(ways, n, e), empty(ways, n, e)
        to_a, to_d, to_bias = empty(ways, m, e, j), empty(ways, m, e), empty(ways, m, e)
        to_b, to_c = empty(ways, blocks, n, j), empty(ways, blocks, n, j)
        scratch = empty(ways * m * blocks * (CHUNK + 1) * BLOCK * j)
        with torch.cuda.device_of(u):
            scan_backward[_grid(e, lengths, ways)](
                *_present(parts), bounds, chunk_first, chunks, grad.contiguous(), scratch,
                to_u, to_delta, to_a, to_b, to_c, to_d, to_z, to_bias,
                n, e, m, total, *_strides(parts), **_switches(parts, softplus, reverse), J=j, BLOCK=BLOCK, CHUNK=CHUNK,
            )  # fmt: skip
        made = [
            *(to_u.sum(0), to_delta.sum(0), to_a.sum(1), to_b.sum((0, 1)), to_c.sum((0, 1))),
            *(to_d.sum((0, 1)), to_z.sum(0), to_bias.sum((0, 1))),
        ]
        pairs = zip(made, ctx.dtypes, strict=True)
        return (*(None if kind is None else tensor.to(kind) for tensor, kind in pairs), *[None] * 5)


def _grid(e: int, lengths: tuple[int, ...], ways: int) -> tuple[int, int, int]:
    return -(-e // BLOCK), len(lengths), ways


def _present(parts: list[Tensor | None]) -> list[Tensor]:
    """A kernel wants a tensor for each argument; what is absent is never read."""
    return [parts[0] if part is None else part for part in parts]


def _strides(parts: list[Tensor | None]) -> list[int]:
    u, delta, _, b, c, _, z, _ = parts
    return [0 if tensor is None else tensor.stride(0) for tensor in (u, delta, b, c, z)]


def _switches(parts: list[Tensor | None], softplus: bool, reverse: bool) -> dict[str, bool]:
    *_, d, z, bias = parts
    absent = {"HAS_D": d, "HAS_Z": z, "HAS_BIAS": bias}
    return {"REVERSE": reverse, "SOFTPLUS": softplus, **{name: part is not None for name, part in absent.items()}}


@lru_cache(maxsize=16)
def _bounds(lengths: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Cumulative lengths and the first chunk of each segment on the device, and the number of chunks."""
    starts = [0, *accumulate(-(-length // CHUNK) for length in lengths)]
    with torch.inference_mode(False):
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)
        return bounds, torch.tensor(starts[:-1], dtype=torch.int32).to(device, non_blocking=True), starts[-1]


def _rows(tensor: Tensor | None) -> Tensor | None:
    """Rows contiguous; a slice of a wider projection stays where it is, in its own dtype."""
    return tensor if tensor is None or tensor.stride(1) == 1 else tensor.contiguous()


def _whole(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float().contiguous()
