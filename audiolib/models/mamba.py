"""Parts of Audio Mamba on packed tokens: the causal convolution, the mixer in its three variants, the block.

Every clip of a pack has its own past: convolution and state begin anew at its border, in both directions.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from audiolib.kernels import causal_conv
from audiolib.kernels.selective_scan import IMPLEMENTATIONS, choose, scan_both

# fo-fo: one scan. fo-bi: the tokens are convolved once and scanned both ways. bi-bi: all is done both ways and halved.
DIRECTIONS = ("fo-fo", "fo-bi", "bi-bi")


@dataclass
class Carried:
    """What a stream keeps between chunks for one layer: the last inputs of the convolution (w, e), the state (e, j)."""

    inputs: Tensor
    state: Tensor


class Way(nn.Module):
    """What one direction has for itself: convolution, and the step, B and C of every token.

    Args:
        inner: e.
        rank: of the steps.
        states: j.
        window: tokens that the convolution sees.
    """

    def __init__(self, inner: int, rank: int, states: int, window: int) -> None:
        super().__init__()
        self.conv_weight, self.conv_bias = nn.Parameter(torch.empty(inner, window)), nn.Parameter(torch.empty(inner))
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.D = nn.Parameter(torch.ones(inner))
        self.splits = (rank, states, states)

    def convolved(self, scan: str, x: Tensor, lengths: tuple[int, ...], *, reverse: bool) -> Tensor:
        """(n, e) to (n, e), by what goes with an implementation of the scan."""
        conv = causal_conv.IMPLEMENTATIONS[causal_conv.beside(scan)]
        return conv(x, self.conv_weight, self.conv_bias, lengths, reverse=reverse)

    def steps(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, e) steps before bias and softplus, and B and C, (n, j) each."""
        rough, b, c = self.x_proj(u).split(self.splits, dim=-1)
        return nn.functional.linear(rough, self.dt_proj.weight), b, c


class Mixer(nn.Module):
    """The token mixer of Mamba, in one of three variants (papers.md 4.1).

    Args:
        width: d; the inner width is twice that.
        states: j.
        directions: of `DIRECTIONS`.
        window: tokens that the convolution sees.
    """

    def __init__(self, width: int, states: int, directions: str, window: int = 4) -> None:
        super().__init__()
        inner, rank = 2 * width, math.ceil(width / 16)
        self.directions, self.impl = directions, "auto"
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.way = Way(inner, rank, states, window)
        self.A_log = nn.Parameter(torch.empty(inner, states))
        if directions != "fo-fo":
            self.back_A_log = nn.Parameter(torch.empty(inner, states))
        if directions == "bi-bi":
            self.back = Way(inner, rank, states, window)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def init_weights(self, depth: int, generator: torch.Generator) -> None:
        """The published initialisation; `depth` is the number of blocks."""
        for parameter in (self.A_log, *([self.back_A_log] if self.directions != "fo-fo" else [])):
            parameter.data.copy_(torch.arange(1, parameter.shape[1] + 1).log().expand_as(parameter))
        for way in (self.way, *([self.back] if self.directions == "bi-bi" else [])):
            bound = way.dt_proj.in_features**-0.5
            way.dt_proj.weight.data.uniform_(-bound, bound, generator=generator)
            low, high = math.log(1e-3), math.log(1e-1)
            step = torch.empty_like(way.dt_proj.bias).uniform_(low, high, generator=generator).exp().clamp(min=1e-4)
            way.dt_proj.bias.data.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it is the step
            nn.init.ones_(way.D)
            bound = way.conv_weight.shape[1] ** -0.5
            way.conv_weight.data.uniform_(-bound, bound, generator=generator)
            way.conv_bias.data.uniform_(-bound, bound, generator=generator)
            _kaiming(way.x_proj.weight, generator)
        _kaiming(self.in_proj.weight, generator)
        _kaiming(self.out_proj.weight, generator)
        self.out_proj.weight.data /= math.sqrt(depth)

    def forward(self, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """(n, d) tokens of clips with `lengths` tokens each."""
        inner, gate = self.in_proj(x).chunk(2, dim=-1)
        impl = choose(x.device, x.dtype) if self.impl == "auto" else self.impl
        scan = IMPLEMENTATIONS[impl]
        u = self.way.convolved(impl, inner, lengths, reverse=False)
        delta, b, c = self.way.steps(u)
        rest = (b, c, self.way.D, gate, self.way.dt_proj.bias)
        if self.directions == "fo-bi":
            y = scan_both(impl, u, delta, -self.A_log.exp(), -self.back_A_log.exp(), *rest, lengths=lengths)
        else:
            y = scan(u, delta, -self.A_log.exp(), *rest, lengths=lengths)
        if self.directions == "bi-bi":
            u = self.back.convolved(impl, inner, lengths, reverse=True)
            delta, b, c = self.back.steps(u)
            rest = (b, c, self.back.D, gate, self.back.dt_proj.bias)
            y = (y + scan(u, delta, -self.back_A_log.exp(), *rest, lengths=lengths, reverse=True)) / 2
        return self.out_proj(y)

    def step(self, x: Tensor, carried: Carried | None) -> tuple[Tensor, Carried]:
        """(n, d) further tokens of one clip, after those that left `carried`; `fo-fo` alone can do this."""
        inner, gate = self.in_proj(x).chunk(2, dim=-1)
        window = self.way.conv_weight.shape[1] - 1
        past = inner.new_zeros(0, inner.shape[1]) if carried is None else carried.inputs
        longer = torch.cat([past, inner])
        impl = choose(x.device, x.dtype) if self.impl == "auto" else self.impl
        u = self.way.convolved(impl, longer, (len(longer),), reverse=False)[len(past) :]
        delta, b, c = self.way.steps(u)
        y, last = IMPLEMENTATIONS[impl](
            *(u, delta, -self.A_log.exp(), b, c, self.way.D, gate, self.way.dt_proj.bias),
            lengths=(len(u),),
            first=None if carried is None else carried.state[None],
            return_last=True,
        )
        return self.out_proj(y), Carried(longer[-window:], last[0])


def _kaiming(weight: Tensor, generator: torch.Generator) -> None:
    """Uniform within 1 / sqrt(inputs), as torch initialises a linear layer."""
    bound = weight.shape[1] ** -0.5
    weight.data.uniform_(-bound, bound, generator=generator)


class MambaBlock(nn.Module):
    """Norm and mixer; the sum of all earlier outputs is kept in float32."""

    def __init__(self, width: int, states: int, directions: str, eps: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=eps)
        self.mixer = Mixer(width, states, directions)

    def forward(self, residual: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """(n, d) float32 residual of clips with `lengths` tokens each."""
        return residual + self.mixer(self.norm(residual), lengths).to(residual.dtype)
