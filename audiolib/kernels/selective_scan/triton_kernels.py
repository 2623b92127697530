"""The Triton programs of the selective scan, forward; `triton_scan.py` launches them.

Segments are cut into chunks that are scanned side by side. `chunk_states` finds what each chunk would leave behind if
no state came before it, `carry_chunks` from that the state before each chunk, and `scan_forward` the results. Fo-Bi
walks along each chunk in both directions, so that its inputs are fetched once.

A program has a block of channels of one chunk, whose state is a tile (J, BLOCK).
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# Columns of the table of chunks: its ends in tokens, its segment, where its states go (`scan_backward`), whether the
# segment begins (1) or ends (2) with it.
COLUMNS = tl.constexpr(5)


@triton.jit
def _smooth(x):
    """log(1 + exp(x)) without overflow; log(1 + y) for a small y by what rounding made of 1 + y."""
    y = tl.exp(-tl.abs(x))
    rounded = 1.0 + y
    small = tl.where(rounded == 1.0, 1.0, rounded - 1.0)
    return tl.maximum(x, 0.0) + tl.where(rounded == 1.0, y, tl.log(rounded) * (y / small))


@triton.jit
def channels_of(e, J: tl.constexpr, BLOCK: tl.constexpr):
    """Which row and which block of channels a program has, its channels, which of them exist, their tile in (J, e)."""
    blocks = tl.cdiv(e, BLOCK)
    block = tl.program_id(0) % blocks
    channels = block * BLOCK + tl.arange(0, BLOCK)
    return tl.program_id(0) // blocks, block, channels, channels < e, tl.arange(0, J)[:, None] * e + channels[None, :]


@triton.jit
def alone(a, table, e, REVERSE: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr):
    """Of a program with one chunk in one way: both, whether it goes backwards, the chunk's ends, its channels, which of
    them exist, their tile, and A log2(e)."""
    chunk, _block, channels, inside, tile = channels_of(e, J, BLOCK)
    way = tl.program_id(1).to(tl.int64)
    start, stop = tl.load(table + chunk * COLUMNS), tl.load(table + chunk * COLUMNS + 1)
    a2 = tl.load(a + way * J * e + tile, mask=inside[None, :], other=0.0) * LOG2E
    return chunk, way, (way == 1) != REVERSE, start, stop, channels, inside, tile, a2


@triton.jit
def token_at(i, start, stop, backwards):
    """The i-th token that a chunk's scan meets, in 64 bits, for it is a factor of addresses; whether there is one."""
    return tl.where(backwards, stop - 1 - i, start + i).to(tl.int64), (i >= 0) & (i < stop - start)


@triton.jit
def step_of(
    delta, bias, t, live, channels, inside, delta_stride, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr
):  # fmt: skip
    """The step (BLOCK,) of a token; zero, which changes no state, where there is none."""
    raw = tl.load(delta + t * delta_stride + channels, mask=inside & live, other=0.0).to(tl.float32)
    if HAS_BIAS:
        raw += tl.load(bias + channels, mask=inside, other=0.0)
    return tl.where(live, _smooth(raw) if SOFTPLUS else raw, 0.0)


@triton.jit
def row_of(rows, t, live, stride, J: tl.constexpr):
    """B or C of a token, as a column (J, 1)."""
    return tl.load(rows + t * stride + tl.arange(0, J), mask=live, other=0.0).to(tl.float32)[:, None]


@triton.jit
def push(state, x, dt, a2, read):
    """The state after a token: decayed by exp(step A), of which `a2` is A log2(e), plus step B u."""
    return tl.exp2(dt[None, :] * a2) * state + (dt * x)[None, :] * read


@triton.jit
def advance(
    state, a2, u, delta, b, bias, t, live, channels, inside, u_stride, delta_stride, b_stride,
    HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, J: tl.constexpr,
):  # fmt: skip
    """The state after a token, its u and its step."""
    x = tl.load(u + t * u_stride + channels, mask=inside & live, other=0.0).to(tl.float32)
    dt = step_of(delta, bias, t, live, channels, inside, delta_stride, HAS_BIAS, SOFTPLUS)
    return push(state, x, dt, a2, row_of(b, t, live, b_stride, J)), x, dt


@triton.jit(do_not_specialize=["total"])  # Else a program is compiled anew for some numbers of chunks.
def chunk_states(
    u, delta, a, b, bias, table, states, steps, e, total, u_stride, delta_stride, b_stride,
    REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr,
    J: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """What each chunk alone leaves as states (ways, total, J, e); the sums of its steps (total, e)."""
    chunk, way, backwards, start, stop, channels, inside, tile, a2 = alone(a, table, e, REVERSE, J, BLOCK)
    state, total_step = tl.zeros((J, BLOCK), tl.float32), tl.zeros((BLOCK,), tl.float32)
    i = 0
    while i < stop - start:  # Not a range: numpy 2.4 does not let Triton's interpreter take a loaded number for one.
        for ahead in tl.static_range(GROUP):
            t, live = token_at(i + ahead, start, stop, backwards)
            state, _x, dt = advance(
                state, a2, u, delta, b, bias, t, live, channels, inside, u_stride, delta_stride, b_stride,
                HAS_BIAS, SOFTPLUS, J,
            )  # fmt: skip
            total_step += dt
        i += GROUP
    tl.store(states + (way * total + chunk) * J * e + tile, state, mask=inside[None, :])
    tl.store(steps + chunk.to(tl.int64) * e + channels, total_step, mask=inside & (way == 0))


@triton.jit(do_not_specialize=["total"])
def carry_chunks(
    a, steps, states, first, chunk_first, e, total,
    FLIP: tl.constexpr, HAS_FIRST: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Turn what chunks leave (ways, total, J, e) into what comes before each, segment by segment, from `first` on."""
    segment, _block, channels, inside, tile = channels_of(e, J, BLOCK)
    way, held = tl.program_id(1).to(tl.int64), inside[None, :]
    backwards = (way == 1) != FLIP
    begin, end = tl.load(chunk_first + segment), tl.load(chunk_first + segment + 1)
    a2 = tl.load(a + way * J * e + tile, mask=held, other=0.0) * LOG2E
    carry = tl.zeros((J, BLOCK), tl.float32)
    if HAS_FIRST:
        carry = tl.load(first + segment.to(tl.int64) * J * e + tile, mask=held, other=0.0)
    i = 0
    while i < end - begin:
        chunk = tl.where(backwards, end - 1 - i, begin + i).to(tl.int64)
        place = states + (way * total + chunk) * J * e + tile
        left = tl.load(place, mask=held, other=0.0)
        tl.store(place, carry, mask=held)
        dt = tl.load(steps + chunk * e + channels, mask=inside, other=0.0)
        carry = tl.exp2(dt[None, :] * a2) * carry + left
        i += 1


@triton.jit(do_not_specialize=["segments", "total"])
def scan_forward(
    u, delta, a, b, c, d, z, bias, table, before, out, last,
    e, segments, total, u_stride, delta_stride, b_stride, c_stride, z_stride,
    WAYS: tl.constexpr, REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_BEFORE: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """out (n, e), the sum over ways, and the last states (ways, segments, J, e), from the states before each chunk
    (ways, total, J, e), if they are not zero."""
    chunk, _, channels, inside, tile = channels_of(e, J, BLOCK)
    row, held = table + chunk * COLUMNS, inside[None, :]
    start, stop, segment, ends = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 4)
    way = tl.cast(0, tl.int64)
    while way < WAYS:
        backwards = (way == 1) != REVERSE
        a2 = tl.load(a + way * J * e + tile, mask=held, other=0.0) * LOG2E
        state = tl.zeros((J, BLOCK), tl.float32)
        if HAS_BEFORE:
            state = tl.load(before + (way * total + chunk) * J * e + tile, mask=held, other=0.0)
        i = 0
        while i < stop - start:
            for ahead in tl.static_range(GROUP):
                t, live = token_at(i + ahead, start, stop, backwards)
                there = inside & live
                state, x, _dt = advance(
                    state, a2, u, delta, b, bias, t, live, channels, inside, u_stride, delta_stride, b_stride,
                    HAS_BIAS, SOFTPLUS, J,
                )  # fmt: skip
                y = tl.sum(state * row_of(c, t, live, c_stride, J), 0)
                if HAS_D:
                    y += tl.load(d + channels, mask=inside, other=0.0) * x
                if HAS_Z:
                    gate = tl.load(z + t * z_stride + channels, mask=there, other=0.0).to(tl.float32)
                    y *= gate * tl.sigmoid(gate)
                if WAYS == 2:
                    y += tl.load(out + t * e + channels, mask=there & (way == 1), other=0.0).to(tl.float32)
                tl.store(out + t * e + channels, y, mask=there)
            i += GROUP
        if (ends & tl.where(backwards, 1, 2)) != 0:
            tl.store(last + (way * segments + segment) * J * e + tile, state, mask=held)
        tl.debug_barrier()  # Of the other way the results are read.
        way += 1
