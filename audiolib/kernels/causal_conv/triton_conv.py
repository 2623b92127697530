"""Causal convolution in Triton, for GPUs; on a CPU through Triton's interpreter (`TRITON_INTERPRET=1`), to check it."""

import os
from typing import Any

import torch
from torch import Tensor

from audiolib.errors import KernelUnavailable
from audiolib.kernels.causal_conv.naive import places

TOKENS, CHANNELS = 32, 64


def triton(x: Tensor, weight: Tensor, bias: Tensor, lengths: tuple[int, ...], *, reverse: bool = False) -> Tensor:
    """See the contract in `__init__.py`; it computes in float32 and returns x's dtype.

    Raises:
        KernelUnavailable: tensors on a CPU, without the interpreter.
    """
    return _TritonConv.apply(x, weight, bias, lengths, reverse)


class _TritonConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, lengths: tuple[int, ...], reverse: bool) -> Tensor:
        if x.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise KernelUnavailable("the convolution in Triton needs a GPU; set train.scan to cpp or naive")
        from audiolib.kernels.causal_conv.triton_kernels import conv_forward

        x = x if x.stride(1) == 1 else x.contiguous()  # Half of a wider projection stays where it is.
        parts = (x, weight.contiguous(), bias.contiguous(), places(lengths, reverse, x.device))
        out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        with torch.cuda.device_of(x):  # Triton launches on the current device, not on the tensors'.
            conv_forward[_grid(x)](*parts, out, *x.shape, x.stride(0), **_sizes(weight, reverse))
        ctx.save_for_backward(*parts)
        ctx.reverse = reverse
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from audiolib.kernels.causal_conv.triton_kernels import conv_inputs, conv_slopes

        x, weight, bias, place = ctx.saved_tensors
        (n, e), window, tiles = x.shape, weight.shape[1], _grid(x)[0]

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=x.device)

        slopes, to_x, to_weight, to_bias = empty(n, e), empty(n, e), empty(tiles, window, e), empty(tiles, e)
        sizes = _sizes(weight, ctx.reverse)
        with torch.cuda.device_of(x):
            conv_slopes[_grid(x)](
                x, weight, bias, place, grad.contiguous(), slopes, to_weight, to_bias, n, e, x.stride(0), **sizes
            )
            conv_inputs[_grid(x)](slopes, weight, place, to_x, n, e, **sizes)
        made = to_x.to(x.dtype), to_weight.sum(0).T.to(weight.dtype), to_bias.sum(0).to(bias.dtype)
        return (*made, None, None)


def _grid(x: Tensor) -> tuple[int, int]:
    return -(-x.shape[0] // TOKENS), -(-x.shape[1] // CHANNELS)


def _sizes(weight: Tensor, reverse: bool) -> dict[str, int | bool]:
    return {"WINDOW": weight.shape[1], "REVERSE": reverse, "TOKENS": TOKENS, "CHANNELS": CHANNELS}
