"""Selective scan in Triton, for GPUs; on a CPU through Triton's interpreter (`TRITON_INTERPRET=1`), to check it."""

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from audiolib.errors import KernelUnavailable

# Channels and warps of a program; tokens of a chunk; tokens whose states a program holds at a time. The backward pass
# writes down the state before every second group.
BLOCK, WARPS, CHUNK, GROUP = 32, 1, 64, 4
SAVED = 2 * GROUP


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
    out, last = _TritonScan.apply(u, delta, A[None], B, C, D, z, delta_bias, softplus, lengths, reverse, first)
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
    """The sum of a forward scan with A and a reverse one with `back_A`, in one pass (Fo-Bi; papers.md 4.1).

    Raises:
        KernelUnavailable: see `triton`.
    """
    both = torch.stack([A, back_A])
    return _TritonScan.apply(u, delta, both, B, C, D, z, delta_bias, softplus, lengths, False, None)[0]


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
    ) -> tuple[Tensor, Tensor]:
        if u.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise KernelUnavailable("train.scan=triton needs a GPU; use cpp")
        if (states := A.shape[2]) & (states - 1):
            raise KernelUnavailable(f"the Triton scan has a power of two of states, not {states}; set train.scan=naive")
        from audiolib.kernels.selective_scan.triton_kernels import scan_forward

        a = A.float().transpose(1, 2).contiguous()
        parts = [_rows(u), _rows(delta), a, _rows(B), _rows(C), _whole(D), _rows(z), _whole(bias)]
        (n, e), (ways, j, _), cut = u.shape, a.shape, _cut(lengths, u.device)
        out = u.new_empty(n, e, dtype=_summed(u.dtype, ways))
        begun = None if first is None else first.float().transpose(1, 2).contiguous()
        last = _floats(u, ways, len(lengths), j, e)
        if 0 in lengths:  # A segment without a token has no chunk, and ends with what it begins with.
            last.copy_(torch.zeros_like(last) if begun is None else begun)
        with torch.cuda.device_of(u):  # Triton launches on the current device, not on the tensors'.
            before = _before(parts, begun, cut, softplus, reverse)
            scan_forward[_grid(cut.total, e)](
                *_present(parts), cut.table, last if before is None else before, out, last,
                e, len(lengths), cut.total, *_strides(parts), **_switches(parts, softplus, reverse),
                WAYS=ways, HAS_BEFORE=before is not None, **_sizes(j),
            )  # fmt: skip
        ctx.save_for_backward(*parts, before)
        ctx.options = (softplus, lengths, reverse)
        ctx.dtypes = [None if t is None else t.dtype for t in (u, delta, A, B, C, D, z, bias)]
        last = last.transpose(2, 3)
        ctx.mark_non_differentiable(last)
        return out.to(u.dtype), last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _last: Tensor) -> tuple[Tensor | None, ...]:
        from audiolib.kernels.selective_scan.triton_gradients import scan_backward

        *parts, before = ctx.saved_tensors
        softplus, lengths, reverse = ctx.options
        u, grad = parts[0], _rows(grad)
        (n, e), (ways, j, _), cut = u.shape, parts[2].shape, _cut(lengths, u.device)
        dtypes = [_summed(ctx.dtypes[place] or u.dtype, ways) for place in (0, 1, 6)]
        to_u, to_delta, to_z = (u.new_empty(n, e, dtype=dtype) for dtype in dtypes)
        to_b, to_c = (_floats(u, ways, -(-e // BLOCK), n, j) for _ in "bc")
        to_a, to_d, to_bias = _floats(u, ways, cut.total, j, e), _floats(u, cut.total, e), _floats(u, cut.total, e)
        saved = _floats(u, cut.saved, j, e)
        with torch.cuda.device_of(u):
            carried = _carried(parts, grad, cut, softplus, reverse)
            scan_backward[_grid(cut.total, e)](
                *_present(parts), grad, cut.table, *(saved if s is None else s for s in (before, carried)), saved,
                to_u, to_delta, to_a, to_b, to_c, to_d, to_z, to_bias,
                n, e, cut.total, *_strides(parts), grad.stride(0), **_switches(parts, softplus, reverse),
                WAYS=ways, HAS_BEFORE=before is not None, HAS_CARRIED=carried is not None, SAVED=SAVED, **_sizes(j),
            )  # fmt: skip
        made = [
            *(to_u, to_delta, to_a.sum(1).transpose(1, 2), to_b.sum((0, 1)), to_c.sum((0, 1))),
            *(to_d.sum(0), to_z, to_bias.sum(0)),
        ]
        pairs = zip(made, ctx.dtypes, strict=True)
        return (*(None if kind is None else tensor.to(kind) for tensor, kind in pairs), *[None] * 4)


@dataclass(frozen=True)
class _Cut:
    """Segments cut into chunks: the programs' table, the first chunk of each segment, and how many there are."""

    table: Tensor
    bounds: Tensor
    total: int
    saved: int
    single: bool  # No segment has more than one.


@lru_cache(maxsize=16)
def _cut(lengths: tuple[int, ...], device: torch.device) -> _Cut:
    rows: list[tuple[int, ...]] = []
    bounds, begin, saved = [0], 0, 0
    for segment, length in enumerate(lengths):
        end = begin + length
        for start in range(begin, end, CHUNK):
            stop = min(start + CHUNK, end)
            rows.append((start, stop, segment, saved, (start == begin) + 2 * (stop == end)))
            saved += -(-(stop - start) // SAVED)
        begin = end
        bounds.append(len(rows))
    with torch.inference_mode(False):
        table, firsts = (torch.tensor(what, dtype=torch.int32).to(device, non_blocking=True) for what in (rows, bounds))
    return _Cut(table, firsts, len(rows), saved, max(lengths, default=0) <= CHUNK)


def _before(
    parts: list[Tensor | None], first: Tensor | None, cut: _Cut, softplus: bool, reverse: bool
) -> Tensor | None:
    """The states before each chunk (ways, chunks, J, e); null where all are zero."""
    if cut.single:
        return first if first is None else first[None, cut.table[:, 2]]
    from audiolib.kernels.selective_scan.triton_kernels import chunk_states

    u, delta, a, b, *_ = _present(parts)
    (ways, j, e), switches = a.shape, _switches(parts, softplus, reverse)
    states, steps = _floats(u, ways, cut.total, j, e), _floats(u, cut.total, e)
    chunk_states[(*_grid(cut.total, e), ways)](
        u, delta, a, b, _present(parts)[7], cut.table, states, steps, e, cut.total, *_strides(parts)[:3],
        **{name: switches[name] for name in ("REVERSE", "SOFTPLUS", "HAS_BIAS")}, **_sizes(j),
    )  # fmt: skip
    _carry(a, steps, states, first, cut, reverse)
    return states


def _carried(parts: list[Tensor | None], grad: Tensor, cut: _Cut, softplus: bool, reverse: bool) -> Tensor | None:
    """The gradients of the states after each chunk by the chunks that follow (ways, chunks, J, e); null where zero."""
    if cut.single:
        return None
    from audiolib.kernels.selective_scan.triton_gradients import chunk_gradients

    _, delta, a, _, c, _, z, bias = _present(parts)
    _, delta_stride, _, c_stride, z_stride = _strides(parts)
    (ways, j, e), switches = a.shape, _switches(parts, softplus, reverse)
    gradients, steps = _floats(a, ways, cut.total, j, e), _floats(a, cut.total, e)
    chunk_gradients[(*_grid(cut.total, e), ways)](
        delta, a, c, z, bias, grad, cut.table, gradients, steps, e, cut.total,
        delta_stride, c_stride, z_stride, grad.stride(0),
        **{name: switches[name] for name in ("REVERSE", "SOFTPLUS", "HAS_Z", "HAS_BIAS")}, **_sizes(j),
    )  # fmt: skip
    _carry(a, steps, gradients, None, cut, not reverse)
    return gradients


def _carry(a: Tensor, steps: Tensor, states: Tensor, first: Tensor | None, cut: _Cut, flip: bool) -> None:
    from audiolib.kernels.selective_scan.triton_kernels import carry_chunks

    ways, j, e = a.shape
    carry_chunks[(*_grid(len(cut.bounds) - 1, e), ways)](
        a, steps, states, a if first is None else first, cut.bounds, e, cut.total,
        FLIP=flip, HAS_FIRST=first is not None, J=j, BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip


def _grid(rows: int, e: int) -> tuple[int]:
    return (rows * -(-e // BLOCK),)


def _sizes(j: int) -> dict[str, int]:
    """With one warp to a program, sums over its channels do not leave the warp."""
    return {"J": j, "BLOCK": BLOCK, "GROUP": GROUP, "num_warps": WARPS}


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


def _floats(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


def _summed(dtype: torch.dtype, ways: int) -> torch.dtype:
    """Of what is stored: the sum of two ways is rounded, not each."""
    return dtype if ways == 1 else torch.float32


def _rows(tensor: Tensor | None) -> Tensor | None:
    """Rows contiguous; a slice of a wider projection stays where it is, in its own dtype."""
    return tensor if tensor is None or tensor.stride(1) == 1 else tensor.contiguous()


def _whole(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float().contiguous()
