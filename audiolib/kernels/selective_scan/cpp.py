"""Selective scan in C++ for the CPU: vectors of channels, hand-written backward, memory linear in the tokens."""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiolib.errors import KernelUnavailable
from audiolib.kernels.compile import library

_SOURCE = Path(__file__).with_name("scan.cpp")
STATES = (1, 4, 8, 16, 32)
_POINTERS = ("u", "delta", "a", "b", "c", "d", "z", "bias", "bounds", "first")
_NUMBERS = (
    *("segments", "channels", "states"),
    *("u_stride", "delta_stride", "b_stride", "c_stride", "z_stride", "softplus", "reverse"),
)


class _Scan(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _POINTERS] + [(name, ctypes.c_int64) for name in _NUMBERS]


class _Gradients(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("out", "u", "delta", "a", "b", "c", "d", "z", "bias", "partial")]


def cpp(
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
        KernelUnavailable: no compiler, or a number of states that it was not made for.
    """
    if A.shape[1] not in STATES:
        raise KernelUnavailable(f"the C++ scan has {STATES} states, not {A.shape[1]}; set train.scan=naive")
    out, last = _CppScan.apply(u, delta, A, B, C, D, z, delta_bias, softplus, lengths, reverse, first)
    return (out, last) if return_last else out


class _CppScan(torch.autograd.Function):
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
        kernel = _library()
        parts = [_rows(u), _rows(delta), _whole(A.T), _rows(B), _rows(C), _whole(D), _rows(z), _whole(bias)]
        before = None if first is None else _whole(first.transpose(1, 2))
        scan, kept = _scan(parts, lengths, before, softplus, reverse)
        channels, states = A.shape
        out = torch.empty(u.shape, dtype=torch.float32)
        last = torch.empty(len(lengths), states, channels)
        size = kernel.scan_chunk()
        chunks = None
        if any(ctx.needs_input_grad):
            chunks = torch.empty(sum(-(-length // size) for length in lengths), states, channels)
        kernel.scan_forward(ctypes.byref(scan), _at(out), _at(chunks), _at(last))
        del kept
        ctx.save_for_backward(*parts, chunks, before)
        ctx.options = (softplus, lengths, reverse)
        ctx.dtypes = [None if t is None else t.dtype for t in (u, delta, A, B, C, D, z, bias)]
        last = last.transpose(1, 2)
        ctx.mark_non_differentiable(last)
        return out.to(u.dtype), last

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _last: Tensor) -> tuple[Tensor | None, ...]:
        *parts, chunks, before = ctx.saved_tensors
        softplus, lengths, reverse = ctx.options
        scan, kept = _scan(parts, lengths, before, softplus, reverse)
        grad = _whole(grad)
        made = [None if part is None else torch.zeros(part.shape) for part in parts]
        partial = torch.zeros(torch.get_num_threads(), 2, len(grad), scan.states)
        places = [_at(tensor) for tensor in made]
        gradients = _Gradients(_at(grad), *places, _at(partial))
        _library().scan_backward(ctypes.byref(scan), _at(chunks), ctypes.byref(gradients))
        del kept
        made[3], made[4] = partial.sum(0)
        made[2] = made[2].T
        return (*(None if t is None else t.to(kind) for t, kind in zip(made, ctx.dtypes, strict=True)), *[None] * 4)


def _scan(
    parts: list[Tensor | None], lengths: tuple[int, ...], first: Tensor | None, softplus: bool, reverse: bool
) -> tuple[_Scan, Tensor]:
    """The structure that the kernel reads, and the bounds that it points to."""
    u, delta, a, b, c, _, z, _ = parts
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    strides = [0 if tensor is None else tensor.stride(0) for tensor in (u, delta, b, c, z)]
    pointers = [_at(tensor) for tensor in (*parts, bounds, first)]
    return _Scan(*pointers, len(lengths), a.shape[1], a.shape[0], *strides, int(softplus), int(reverse)), bounds


def _rows(tensor: Tensor | None) -> Tensor | None:
    """Float32 whose rows are contiguous; a slice of a wider projection stays where it is."""
    if tensor is None:
        return None
    tensor = tensor.float()
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


def _whole(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float().contiguous()


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _library() -> ctypes.CDLL:
    try:
        return library(_SOURCE)
    except KernelUnavailable as error:
        raise KernelUnavailable(f"{error}; without it, set train.scan=naive") from error
