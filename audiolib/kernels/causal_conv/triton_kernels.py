"""The three Triton programs of the causal convolution; `triton_conv.py` launches them.

A program has a tile of tokens and channels. `places` says how many tokens of its clip come before each token in the
order of the convolution, so that no program needs to know where clips begin.
"""

import triton
import triton.language as tl


@triton.jit
def _tile(n, e, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    """This program's tokens as a column, in 64 bits for addresses, its channels as a row, and which of them exist."""
    tokens = (tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS))[:, None]
    channels = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    return tokens, channels, (tokens < n) & (channels < e)


@triton.jit
def _past(x, place, tokens, channels, inside, stride, BACK: tl.constexpr, REVERSE: tl.constexpr):
    """The input `BACK` tokens before each token of a tile, zero before its clip."""
    other = tokens + BACK if REVERSE else tokens - BACK
    return tl.load(x + other * stride + channels, mask=inside & (place >= BACK), other=0.0).to(tl.float32)


@triton.jit
def _sum(
    x, weight, bias, place, tokens, channels, inside, e, stride,
    WINDOW: tl.constexpr, REVERSE: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The convolution before its SiLU."""
    total = tl.zeros((TOKENS, CHANNELS), tl.float32) + tl.load(bias + channels, mask=channels < e, other=0.0)
    for back in tl.static_range(WINDOW):
        tap = tl.load(weight + channels * WINDOW + (WINDOW - 1 - back), mask=channels < e, other=0.0).to(tl.float32)
        total += tap * _past(x, place, tokens, channels, inside, stride, back, REVERSE)
    return total


@triton.jit
def conv_forward(
    x, weight, bias, places, out, n, e, stride,
    WINDOW: tl.constexpr, REVERSE: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """out (n, e) = silu of the convolution."""
    tokens, channels, inside = _tile(n, e, TOKENS, CHANNELS)
    place = tl.load(places + tokens, mask=tokens < n, other=0)
    total = _sum(x, weight, bias, place, tokens, channels, inside, e, stride, WINDOW, REVERSE, TOKENS, CHANNELS)
    tl.store(out + tokens * e + channels, total * tl.sigmoid(total), mask=inside)


@triton.jit
def conv_slopes(
    x, weight, bias, places, grad, slopes, to_weight, to_bias, n, e, stride,
    WINDOW: tl.constexpr, REVERSE: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """slopes (n, e): the gradient before the SiLU; to_weight (tiles, w, e) and to_bias (tiles, e): sums over a tile."""
    tokens, channels, inside = _tile(n, e, TOKENS, CHANNELS)
    place = tl.load(places + tokens, mask=tokens < n, other=0)
    total = _sum(x, weight, bias, place, tokens, channels, inside, e, stride, WINDOW, REVERSE, TOKENS, CHANNELS)
    gate = tl.sigmoid(total)
    slope = tl.load(grad + tokens * e + channels, mask=inside, other=0.0).to(tl.float32)
    slope *= gate * (1.0 + total * (1.0 - gate))
    tl.store(slopes + tokens * e + channels, slope, mask=inside)
    one = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    tl.store(to_bias + tl.program_id(0) * e + one, tl.sum(slope, 0), mask=one < e)
    for back in tl.static_range(WINDOW):
        past = _past(x, place, tokens, channels, inside, stride, back, REVERSE)
        row = tl.program_id(0) * WINDOW + (WINDOW - 1 - back)
        tl.store(to_weight + row * e + one, tl.sum(slope * past, 0), mask=one < e)


@triton.jit
def conv_inputs(
    slopes, weight, places, to_x, n, e,
    WINDOW: tl.constexpr, REVERSE: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """to_x (n, e): what each token was to itself and to the tokens after it in its clip."""
    tokens, channels, inside = _tile(n, e, TOKENS, CHANNELS)
    total = tl.zeros((TOKENS, CHANNELS), tl.float32)
    for back in tl.static_range(WINDOW):
        later = tokens - back if REVERSE else tokens + back
        there = (later >= 0) & (later < n)
        heard = there & (tl.load(places + later, mask=there, other=-1) >= back)
        tap = tl.load(weight + channels * WINDOW + (WINDOW - 1 - back), mask=channels < e, other=0.0).to(tl.float32)
        total += tap * tl.load(slopes + later * e + channels, mask=inside & heard, other=0.0)
    tl.store(to_x + tokens * e + channels, total, mask=inside)
