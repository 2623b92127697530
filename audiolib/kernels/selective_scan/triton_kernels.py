"""The two Triton programs of the selective scan; `triton_scan.py` launches them.

A program has a block of channels of one segment in one direction and walks along its tokens. Directions are an axis of
the launch: Fo-Bi scans both ways at once, reading the same inputs.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _smooth(x):
    """log(1 + exp(x)) without overflow; log(1 + y) for a small y by what rounding made of 1 + y."""
    y = tl.exp(-tl.abs(x))
    rounded = 1.0 + y
    small = tl.where(rounded == 1.0, 1.0, rounded - 1.0)
    return tl.maximum(x, 0.0) + tl.where(rounded == 1.0, y, tl.log(rounded) * (y / small))


@triton.jit
def _place(bounds, e, REVERSE: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr):
    """This program's channels, which of them exist, their places in (e, J), its segment's ends and its direction."""
    channels = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tile = channels[:, None] * J + tl.arange(0, J)[None, :]
    begin, end = tl.load(bounds + tl.program_id(1)), tl.load(bounds + tl.program_id(1) + 1)
    return channels, channels < e, tile, begin, end, (tl.program_id(2) == 1) != REVERSE


@triton.jit
def _token(i, begin, end, backwards):
    """The token that is visited as the i-th of a segment; 64 bits, for it is a factor of addresses."""
    return tl.where(backwards, end - 1 - i, begin + i).to(tl.int64)


@triton.jit
def _slope(dt):
    """The slope of softplus from its value, 1 - exp(-dt), by its series where the difference would round away."""
    series = dt * (1.0 - dt * (0.5 - dt * (1.0 / 6.0 - dt / 24.0)))
    return tl.where(dt < 0.05, series, 1.0 - tl.exp(-dt))


@triton.jit
def _inputs(
    u, delta, b, bias, t, channels, inside, u_stride, delta_stride, b_stride,
    HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, J: tl.constexpr,
):  # fmt: skip
    """What token t feeds to the state: u (BLOCK,), the step (BLOCK,) and B (J,)."""
    x = tl.load(u + t * u_stride + channels, mask=inside, other=0.0).to(tl.float32)
    raw = tl.load(delta + t * delta_stride + channels, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        raw += tl.load(bias + channels, mask=inside, other=0.0)
    dt = _smooth(raw) if SOFTPLUS else raw
    return x, dt, tl.load(b + t * b_stride + tl.arange(0, J)).to(tl.float32)


@triton.jit
def scan_forward(
    u, delta, a, b, c, d, z, bias, bounds, chunk_first, first, out, chunks, last,
    n, e, segments, total_chunks, u_stride, delta_stride, b_stride, c_stride, z_stride,
    REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_FIRST: tl.constexpr, SAVE: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """out (ways, n, e), states at every CHUNK-th token (ways, total_chunks, e, J), last ones (ways, segments, e, J)."""
    segment, way = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    channels, inside, tile, begin, end, backwards = _place(bounds, e, REVERSE, J, BLOCK)
    held = inside[:, None]
    a2 = tl.load(a + way * e * J + tile, mask=held, other=0.0) * LOG2E
    state = tl.zeros((BLOCK, J), tl.float32)
    if HAS_FIRST:
        state = tl.load(first + segment * e * J + tile, mask=held, other=0.0)
    chunk = chunks + (way * total_chunks + tl.load(chunk_first + segment)) * e * J
    i = 0
    while i < end - begin:  # Not a range: numpy 2.4 does not let Triton's interpreter take a loaded number for one.
        if SAVE and i % CHUNK == 0:
            tl.store(chunk + tl.cast(i // CHUNK, tl.int64) * e * J + tile, state, mask=held)
        t = _token(i, begin, end, backwards)
        x, dt, push = _inputs(
            u, delta, b, bias, t, channels, inside, u_stride, delta_stride, b_stride, HAS_BIAS, SOFTPLUS, J
        )
        read = tl.load(c + t * c_stride + tl.arange(0, J)).to(tl.float32)
        state = tl.exp2(dt[:, None] * a2) * state + (dt * x)[:, None] * push[None, :]
        y = tl.sum(state * read[None, :], 1)
        if HAS_D:
            y += tl.load(d + channels, mask=inside, other=0.0) * x
        if HAS_Z:
            gate = tl.load(z + t * z_stride + channels, mask=inside, other=0.0).to(tl.float32)
            y *= gate * tl.sigmoid(gate)
        tl.store(out + (way * n + t) * e + channels, y, mask=inside)
        i += 1
    tl.store(last + (way * segments + segment) * e * J + tile, state, mask=held)


@triton.jit
def _recompute(
    own, saved, decay_rate, u, delta, b, bias, begin, end, start, stop, backwards, channels, inside,
    u_stride, delta_stride, b_stride, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    J: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Leave the state before and after each token from `start` to `stop` of a segment in this program's scratch."""
    state = tl.load(saved, mask=inside[:, None], other=0.0)
    tl.store(own, state)
    i = start
    while i < stop:
        t = _token(i, begin, end, backwards)
        x, dt, push = _inputs(
            u, delta, b, bias, t, channels, inside, u_stride, delta_stride, b_stride, HAS_BIAS, SOFTPLUS, J
        )
        state = tl.exp2(dt[:, None] * decay_rate * LOG2E) * state + (dt * x)[:, None] * push[None, :]
        tl.store(own + (i - start + 1) * BLOCK * J, state)
        i += 1
    tl.debug_barrier()


@triton.jit
def _through_gate(z, to_z, to_y, y, place, out_place, channels, inside):
    """The gradient of what comes before the gate; that of z is stored."""
    gate = tl.load(z + place + channels, mask=inside, other=0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    tl.store(to_z + out_place + channels, to_y * y * share * (1.0 + gate * (1.0 - share)), mask=inside)
    return to_y * gate * share


@triton.jit
def _through_state(to_state, x, dt, push, before, decay_rate, SOFTPLUS: tl.constexpr):
    """The gradients of a token's u (by way of the state), step and exponent, and of the state before it."""
    to_push = tl.sum(to_state * push[None, :], 1)
    to_before = to_state * tl.exp2(dt[:, None] * decay_rate * LOG2E)
    to_exponent = to_before * before
    to_dt = tl.sum(to_exponent * decay_rate, 1) + to_push * x
    return to_push * dt, to_dt * _slope(dt) if SOFTPLUS else to_dt, to_exponent, to_before


@triton.jit
def scan_backward(
    u, delta, a, b, c, d, z, bias, bounds, chunk_first, chunks, grad, scratch,
    to_u, to_delta, to_a, to_b, to_c, to_d, to_z, to_bias,
    n, e, segments, total_chunks, u_stride, delta_stride, b_stride, c_stride, z_stride, REVERSE: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, J: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Gradients for each way, summed afterwards: of u, delta, z (ways, n, e); of B and C (ways, blocks, n, J);
    of A (ways, segments, e, J), D and bias (ways, segments, e). `scratch` holds the states of one chunk a program."""
    segment, way, blocks = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64), tl.num_programs(0)
    channels, inside, tile, begin, end, backwards = _place(bounds, e, REVERSE, J, BLOCK)
    held, states = inside[:, None], tl.arange(0, J)
    decay_rate = tl.load(a + way * e * J + tile, mask=held, other=0.0)
    chunk = chunks + (way * total_chunks + tl.load(chunk_first + segment)) * e * J
    program = (way * segments + segment) * blocks + tl.program_id(0)
    own = scratch + program * (CHUNK + 1) * BLOCK * J + tl.arange(0, BLOCK)[:, None] * J + states[None, :]
    skip, sum_d = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    sum_bias = tl.zeros((BLOCK,), tl.float32)
    if HAS_D:
        skip = tl.load(d + channels, mask=inside, other=0.0)
    carry, sum_a = tl.zeros((BLOCK, J), tl.float32), tl.zeros((BLOCK, J), tl.float32)
    number = (end - begin + CHUNK - 1) // CHUNK
    while number > 0:
        number -= 1
        start = number * CHUNK
        stop = tl.minimum(start + CHUNK, end - begin)
        _recompute(
            own, chunk + tl.cast(number, tl.int64) * e * J + tile, decay_rate, u, delta, b, bias, begin, end, start,
            stop, backwards, channels, inside, u_stride, delta_stride, b_stride, HAS_BIAS, SOFTPLUS, J, BLOCK,
        )  # fmt: skip
        i = stop - 1
        while i >= start:
            t = _token(i, begin, end, backwards)
            x, dt, push = _inputs(
                u, delta, b, bias, t, channels, inside, u_stride, delta_stride, b_stride, HAS_BIAS, SOFTPLUS, J
            )
            read = tl.load(c + t * c_stride + states).to(tl.float32)
            before = tl.load(own + (i - start) * BLOCK * J)
            after = tl.load(own + (i - start + 1) * BLOCK * J)
            to_y = tl.load(grad + t * e + channels, mask=inside, other=0.0).to(tl.float32)
            if HAS_Z:
                y = tl.sum(after * read[None, :], 1) + skip * x
                to_y = _through_gate(z, to_z, to_y, y, t * z_stride, (way * n + t) * e, channels, inside)
            place = ((way * blocks + tl.program_id(0)) * n + t) * J + states
            tl.store(to_c + place, tl.sum(tl.where(held, to_y[:, None] * after, 0.0), 0))
            to_state = to_y[:, None] * read[None, :] + carry
            tl.store(to_b + place, tl.sum(tl.where(held, to_state * (dt * x)[:, None], 0.0), 0))
            to_x, to_dt, to_exponent, carry = _through_state(to_state, x, dt, push, before, decay_rate, SOFTPLUS)
            sum_a += to_exponent * dt[:, None]
            sum_d += to_y * x
            sum_bias += to_dt
            tl.store(to_u + (way * n + t) * e + channels, to_x + to_y * skip, mask=inside)
            tl.store(to_delta + (way * n + t) * e + channels, to_dt, mask=inside)
            i -= 1
        tl.debug_barrier()
    mine = (way * segments + segment) * e
    tl.store(to_a + mine * J + tile, sum_a, mask=held)
    tl.store(to_d + mine + channels, sum_d, mask=inside)
    tl.store(to_bias + mine + channels, sum_bias, mask=inside)
