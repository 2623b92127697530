"""Causal convolution in C++ for the CPU: one pass over vectors of channels, nothing kept for the backward pass."""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiolib.errors import KernelUnavailable
from audiolib.kernels.compile import library

_SOURCE = Path(__file__).with_name("conv.cpp")


class _Conv(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("x", "weight", "bias", "bounds")] + [
        (name, ctypes.c_int64) for name in ("segments", "channels", "x_stride", "reverse")
    ]


def cpp(x: Tensor, weight: Tensor, bias: Tensor, lengths: tuple[int, ...], *, reverse: bool = False) -> Tensor:
    """See the contract in `__init__.py`; it computes in float32 and returns x's dtype.

    Raises:
        KernelUnavailable: no compiler, or another window than it was made for.
    """
    window = _library().conv_window()
    if weight.shape[1] != window:
        raise KernelUnavailable(f"the C++ convolution has a window of {window}, not {weight.shape[1]}")
    return _CppConv.apply(x, weight, bias, lengths, reverse)


class _CppConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, lengths: tuple[int, ...], reverse: bool) -> Tensor:
        own = x if x.stride(1) == 1 else x.contiguous()
        ctx.save_for_backward(own, weight, bias)
        ctx.options = (lengths, reverse)
        conv, kept = _conv(own, weight, bias, lengths, reverse)
        out = torch.empty(x.shape, dtype=torch.float32)
        _library().conv_forward(ctypes.byref(conv), _at(out))
        del kept
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        conv, kept = _conv(x, weight, bias, *ctx.options)
        grad = grad.float().contiguous()
        to_x, to_weight, to_bias = torch.empty(x.shape), torch.empty(weight.T.shape), torch.empty(bias.shape)
        _library().conv_backward(ctypes.byref(conv), *map(_at, (grad, to_x, to_weight, to_bias)))
        del kept
        return to_x.to(x.dtype), to_weight.T.to(weight.dtype), to_bias.to(bias.dtype), None, None


def _conv(
    x: Tensor, weight: Tensor, bias: Tensor, lengths: tuple[int, ...], reverse: bool
) -> tuple[_Conv, list[Tensor]]:
    """The structure that the kernel reads, and the tensors that it points to."""
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    held = [x.float(), weight.T.float().contiguous(), bias.float().contiguous(), bounds]
    return _Conv(*map(_at, held), len(lengths), x.shape[1], held[0].stride(0), int(reverse)), held


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _library() -> ctypes.CDLL:
    try:
        return library(_SOURCE)
    except KernelUnavailable as error:
        raise KernelUnavailable(f"{error}; without it, set train.scan=naive") from error
