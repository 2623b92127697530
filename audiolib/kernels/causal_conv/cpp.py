"""Causal convolution in C++ for the CPU: one pass over vectors of channels, nothing kept for the backward pass."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiolib.errors import KernelUnavailable
from audiolib.kernels.compile import library

_SOURCE = Path(__file__).with_name("conv.cpp")


class _Conv(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("x", "weight", "bias", "bounds")] + [
        (name, ctypes.c_int64) for name in ("segments", "channels", "x_stride", "reverse", "bfloat16")
    ]


def cpp(x: Tensor, weight: Tensor, bias: Tensor, lengths: tuple[int, ...], *, reverse: bool = False) -> Tensor:
    """See the contract in `__init__.py`; it computes in float32, reads bfloat16 as it is, and returns x's dtype.

    Raises:
        KernelUnavailable: no compiler, or another window than it was made for.
    """
    return _forward(x, weight, bias, lengths, reverse)


# Operators of torch: a compiled model has them as they are, without a break in its graph.
@torch.library.custom_op("audiolib::causal_conv", mutates_args=(), device_types="cpu")
def _forward(x: Tensor, weight: Tensor, bias: Tensor, lengths: Sequence[int], reverse: bool) -> Tensor:
    window = _library().conv_window()
    if weight.shape[1] != window:
        raise KernelUnavailable(f"the C++ convolution has a window of {window}, not {weight.shape[1]}")
    conv, kept = _conv(x, weight, bias, lengths, reverse)
    out = torch.empty(x.shape, dtype=_kind(x), device="cpu")
    _library().conv_forward(ctypes.byref(conv), _at(out))
    del kept
    return out.to(x.dtype)


@torch.library.custom_op("audiolib::causal_conv_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, lengths: Sequence[int], reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    conv, kept = _conv(x, weight, bias, lengths, reverse)
    grad = grad.to(_kind(x)).contiguous()
    to_x = torch.empty(x.shape, dtype=_kind(x), device="cpu")
    to_weight, to_bias = (torch.empty(part.shape, dtype=torch.float32, device="cpu") for part in (weight.T, bias))
    _library().conv_backward(ctypes.byref(conv), *map(_at, (grad, to_x, to_weight, to_bias)))
    del kept
    return to_x.to(x.dtype), to_weight.T.to(weight.dtype).contiguous(), to_bias.to(bias.dtype)


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, lengths: Sequence[int], reverse: bool) -> Tensor:
    return x.new_empty(x.shape)


@_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, lengths: Sequence[int], reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(grad, *ctx.saved_tensors, *ctx.options), None, None)


_forward.register_autograd(_gradients, setup_context=_keep)


def _conv(x: Tensor, weight: Tensor, bias: Tensor, lengths: Sequence[int], reverse: bool) -> tuple[_Conv, list[Tensor]]:
    """The structure that the kernel reads, and the tensors that it points to."""
    bounds = torch.tensor([0, *lengths], device="cpu").cumsum(0)
    own = x.to(_kind(x))
    own = own if own.stride(1) == 1 else own.contiguous()
    held = [own, weight.T.float().contiguous(), bias.float().contiguous(), bounds]
    options = (own.stride(0), int(reverse), int(own.dtype == torch.bfloat16))
    return _Conv(*map(_at, held), len(lengths), x.shape[1], *options), held


def _kind(x: Tensor) -> torch.dtype:
    """What the kernel reads and writes."""
    return torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _library() -> ctypes.CDLL:
    try:
        return library(_SOURCE)
    except KernelUnavailable as error:
        raise KernelUnavailable(f"{error}; without it, set train.scan=naive (or --scan naive)") from error
