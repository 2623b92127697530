"""Selective scan as its definition: a loop over the tokens of each segment."""

from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch.nn.functional import softplus as smooth


def naive(
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
    """See the contract in `__init__.py`; any device and dtype (the widest of several), memory n e j for gradients."""
    kind, wide = u.dtype, reduce(torch.promote_types, (part.dtype for part in (u, delta, A, B, C)))
    u, delta, A, B, C = (part.to(wide) for part in (u, delta, A, B, C))
    step = delta if delta_bias is None else delta + delta_bias
    step = smooth(step) if softplus else step
    outs, states = [], []
    # Views made by split and unbind: indexing a tensor in a loop would give each step a gradient of the whole.
    parts = (tensor.split(lengths) for tensor in (u, step, B, C))
    for number, segment in enumerate(zip(*parts, strict=True)):
        tokens = list(zip(*(tensor.unbind(0) for tensor in segment), strict=True))
        state = A.new_zeros(A.shape) if first is None else first[number].to(A)
        out: list[Tensor] = []
        for now, dt, b, c in reversed(tokens) if reverse else tokens:
            state = torch.exp(dt[:, None] * A) * state + (dt * now)[:, None] * b
            out.append(state @ c)
        outs += reversed(out) if reverse else out
        states.append(state.detach())
    y = torch.stack(outs)
    y = y if D is None else y + D * u
    y = (y if z is None else y * silu(z.to(wide))).to(kind)
    return (y, torch.stack(states)) if return_last else y
