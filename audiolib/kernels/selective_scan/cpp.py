"""Selective scan in C++ for the CPU: vectors of channels, hand-written backward, memory linear in the tokens."""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiolib.errors import KernelUnavailable
from audiolib.kernels.compile import library

_SOURCE = Path(__file__).with_name("scan.cpp")
STATES = (1, 4, 8, 16, 32)
CHUNK = 64  # Of scan.cpp: tokens between the states that are kept.
_POINTERS = ("u", "delta", "z", "a", "b", "c", "d", "bias", "bounds", "first")
_NUMBERS = (
    *("segments", "channels", "states"),
    *("u_stride", "delta_stride", "b_stride", "c_stride", "z_stride", "softplus", "reverse", "bfloat16"),
)


class _Scan(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _POINTERS] + [(name, ctypes.c_int64) for name in _NUMBERS]


class _Gradients(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("out", "u", "delta", "z", "a", "d", "bias", "partial")]


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
    """See the contract in `__init__.py`; it computes in float32, reads bfloat16 as it is, and returns u's dtype.

    Raises:
        KernelUnavailable: no compiler, or a number of states that it was not made for.
    """
    if A.shape[1] not in STATES:
        raise KernelUnavailable(f"the C++ scan has {STATES} states, not {A.shape[1]}; set train.scan=naive")
    parts = (u, delta, A, B, C, D, z, delta_bias)
    keep = torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in parts)
    out, last, _ = _forward(*parts, first, softplus, lengths, reverse, keep)
    return (out, last) if return_last else out


# Operators of torch: a compiled model has them as they are, without a break in its graph.
@torch.library.custom_op("audiolib::selective_scan", mutates_args=(), device_types="cpu")
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    first: Tensor | None,
    softplus: bool,
    lengths: Sequence[int],
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, last states, and with `keep` the states before each chunk, from which the backward pass starts."""
    kernel = _library()
    scan, kept = _scan((u, delta, A, B, C, D, z, bias), first, softplus, lengths, reverse)
    channels, states = A.shape
    out = torch.empty(u.shape, dtype=_kind(u, delta, z), device="cpu")
    last = _new(torch.empty, len(lengths), states, channels)
    if kernel.scan_chunk() != CHUNK:
        raise ValueError("CHUNK is not that of scan.cpp")
    count = sum(-(-length // CHUNK) for length in lengths) if keep else 0
    chunks = _new(torch.empty, count, states, channels)
    kernel.scan_forward(ctypes.byref(scan), _at(out), _at(chunks if keep else None), _at(last))
    del kept
    return out.to(u.dtype), last.transpose(1, 2).contiguous(), chunks


@torch.library.custom_op("audiolib::selective_scan_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    first: Tensor | None,
    chunks: Tensor,
    softplus: bool,
    lengths: Sequence[int],
    reverse: bool,
) -> list[Tensor]:
    """Gradients of those of the first eight arguments that are there."""
    parts = (u, delta, A, B, C, D, z, bias)
    scan, kept = _scan(parts, first, softplus, lengths, reverse)
    kind = _kind(u, delta, z)
    grad = grad.to(kind).contiguous()
    to_u, to_delta, to_z = (
        None if part is None else torch.empty(part.shape, dtype=kind, device="cpu") for part in (u, delta, z)
    )
    to_a = _new(torch.zeros, *A.T.shape)
    to_d, to_bias = (None if part is None else _new(torch.zeros, *part.shape) for part in (D, bias))
    partial = _new(torch.zeros, torch.get_num_threads(), 2, len(grad), scan.states)
    gradients = _Gradients(*map(_at, (grad, to_u, to_delta, to_z, to_a, to_d, to_bias, partial)))
    _library().scan_backward(ctypes.byref(scan), _at(chunks), ctypes.byref(gradients))
    del kept
    made = (to_u, to_delta, to_a.T, *(partial[:, place].sum(0) for place in (0, 1)), to_d, to_z, to_bias)
    there = [(found, part) for found, part in zip(made, parts, strict=True) if part is not None]
    return [found.to(part.dtype).contiguous() for found, part in there]


@_forward.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    lengths, keep = rest[-3], rest[-1]
    chunks = sum(-(-length // CHUNK) for length in lengths) if keep else 0
    out = u.new_empty(u.shape)
    return (
        out,
        A.new_empty((len(lengths), *A.shape), dtype=torch.float32),
        A.new_empty((chunks, A.shape[1], A.shape[0]), dtype=torch.float32),
    )


@_backward.register_fake
def _(grad: Tensor, *parts: Any) -> list[Tensor]:
    return [part.new_empty(part.shape) for part in parts[:8] if part is not None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs[:9], output[2])
    ctx.options = inputs[9:12]


def _gradients(ctx: Any, grad: Tensor, _last: Tensor, _chunks: Tensor) -> tuple[Tensor | None, ...]:
    found = iter(_backward(grad, *ctx.saved_tensors, *ctx.options))
    made = [None if part is None else next(found) for part in ctx.saved_tensors[:8]]
    return (*made, *[None] * 5)


_forward.register_autograd(_gradients, setup_context=_keep)


def _scan(
    parts: Sequence[Tensor | None], first: Tensor | None, softplus: bool, lengths: Sequence[int], reverse: bool
) -> tuple[_Scan, list[Tensor | None]]:
    """The structure that the kernel reads, and the tensors that it points to."""
    u, delta, a, b, c, d, z, bias = parts
    states, channels = a.shape[1], a.shape[0]
    kind = _kind(u, delta, z)
    rows = [_rows(u, kind), _rows(delta, kind), _rows(b), _rows(c), _rows(z, kind)]
    strides = [0 if part is None else part.stride(0) for part in rows]
    held = [rows[0], rows[1], rows[4], _whole(a.T), rows[2], rows[3], _whole(d), _whole(bias)]
    held += [
        torch.tensor([0, *lengths], device="cpu").cumsum(0),
        None if first is None else _whole(first.transpose(1, 2)),
    ]
    options = (int(softplus), int(reverse), int(kind == torch.bfloat16))
    return _Scan(*map(_at, held), len(lengths), channels, states, *strides, *options), held


def _kind(u: Tensor, delta: Tensor, z: Tensor | None) -> torch.dtype:
    """What the kernel reads and writes: bfloat16 where all rows are, so that none is copied."""
    rows = [part for part in (u, delta, z) if part is not None]
    return torch.bfloat16 if all(part.dtype == torch.bfloat16 for part in rows) else torch.float32


def _new(make: Callable[..., Tensor], *shape: int) -> Tensor:
    """What the kernel writes into, whatever torch's default dtype and device are."""
    return make(shape, dtype=torch.float32, device="cpu")


def _rows(tensor: Tensor | None, kind: torch.dtype = torch.float32) -> Tensor | None:
    """A tensor whose rows are contiguous; a slice of a wider projection stays where it is."""
    if tensor is None:
        return None
    tensor = tensor.to(kind)
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


def _whole(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float().contiguous()


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _library() -> ctypes.CDLL:
    try:
        return library(_SOURCE)
    except KernelUnavailable as error:
        raise KernelUnavailable(f"{error}; without it, set train.scan=naive (or --scan naive)") from error
