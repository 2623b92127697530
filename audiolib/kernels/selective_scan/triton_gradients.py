"""The Triton programs of the selective scan's gradients; `triton_scan.py` launches them.

What a chunk's tokens mean to the state before it is again found for all chunks side by side (`chunk_gradients`),
carried from chunk to chunk against the direction of the scan, and then `scan_backward` does the rest.
"""

import triton
import triton.language as tl

from audiolib.kernels.selective_scan.triton_kernels import (
    COLUMNS,
    LOG2E,
    advance,
    alone,
    channels_of,
    push,
    row_of,
    step_of,
    token_at,
)

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _slope(dt):
    """The slope of softplus from its value, 1 - exp(-dt), by its series where the difference would round away."""
    series = dt * (1.0 - dt * (0.5 - dt * (1.0 / 6.0 - dt / 24.0)))
    return tl.where(dt < 0.05, series, 1.0 - tl.exp(-dt))


@triton.jit(do_not_specialize=["total"])
def chunk_gradients(
    delta, a, c, z, bias, grad, table, gradients, steps, e, total, delta_stride, c_stride, z_stride, grad_stride,
    REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    J: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The gradients (ways, total, J, e) of the state before each chunk by its own tokens; the sums of its steps."""
    chunk, way, backwards, start, stop, channels, inside, tile, a2 = alone(a, table, e, REVERSE, J, BLOCK)
    carry, total_step = tl.zeros((J, BLOCK), tl.float32), tl.zeros((BLOCK,), tl.float32)
    i = stop - start - 1
    while i >= 0:
        for ahead in tl.static_range(GROUP):
            t, live = token_at(i - ahead, start, stop, backwards)
            there = inside & live
            to_y = tl.load(grad + t * grad_stride + channels, mask=there, other=0.0).to(tl.float32)
            if HAS_Z:
                gate = tl.load(z + t * z_stride + channels, mask=there, other=0.0).to(tl.float32)
                to_y *= gate * tl.sigmoid(gate)
            dt = step_of(delta, bias, t, live, channels, inside, delta_stride, HAS_BIAS, SOFTPLUS)
            carry = tl.exp2(dt[None, :] * a2) * (carry + to_y[None, :] * row_of(c, t, live, c_stride, J))
            total_step += dt
        i -= GROUP
    tl.store(gradients + (way * total + chunk) * J * e + tile, carry, mask=inside[None, :])
    tl.store(steps + chunk.to(tl.int64) * e + channels, total_step, mask=inside & (way == 0))


@triton.jit
def _add(place, value, mask, again, WAYS: tl.constexpr):
    """Store a value, or add it to what the other way has left there."""
    if WAYS == 2:
        value += tl.load(place, mask=mask & again, other=0.0).to(tl.float32)
    tl.store(place, value, mask=mask)


@triton.jit
def _group_backward(
    u, delta, b, c, z, bias, grad, to_u, to_delta, to_b, to_c, to_z, first, carry, sum_a, sum_d, sum_bias, a2, skip,
    i, start, stop, backwards, again, channels, inside, e, u_stride, delta_stride, b_stride, c_stride, z_stride,
    grad_stride, WAYS: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    J: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The gradients of the GROUP tokens from the i-th of a chunk on, before which the state is `first`; what becomes of
    the gradient of the state (`carry`), and of the sums for A, D and the bias."""
    kept, xs, steps, slopes_y, gates = (first,), (), (), (), ()
    for ahead in tl.static_range(GROUP):  # Rows are read first: what is written might be the same, to a compiler.
        t, live = token_at(i + ahead, start, stop, backwards)
        there = inside & live
        xs += (tl.load(u + t * u_stride + channels, mask=there, other=0.0).to(tl.float32),)
        slopes_y += (tl.load(grad + t * grad_stride + channels, mask=there, other=0.0).to(tl.float32),)
        if HAS_Z:
            gates += (tl.load(z + t * z_stride + channels, mask=there, other=0.0).to(tl.float32),)
        steps += (step_of(delta, bias, t, live, channels, inside, delta_stride, HAS_BIAS, SOFTPLUS),)
        kept += (push(kept[ahead], xs[ahead], steps[ahead], a2, row_of(b, t, live, b_stride, J)),)
    for back in tl.static_range(GROUP):
        t, live = token_at(i + GROUP - 1 - back, start, stop, backwards)
        there, own = inside & live, t * e + channels
        x, dt, to_y = xs[GROUP - 1 - back], steps[GROUP - 1 - back], slopes_y[GROUP - 1 - back]
        before, after = kept[GROUP - 1 - back], kept[GROUP - back]
        read, write = row_of(c, t, live, c_stride, J), row_of(b, t, live, b_stride, J)
        if HAS_Z:
            gate = gates[GROUP - 1 - back]
            share = tl.sigmoid(gate)
            y = tl.sum(after * read, 0) + skip * x
            _add(to_z + own, to_y * y * share * (1.0 + gate * (1.0 - share)), there, again, WAYS)
            to_y *= gate * share
        place = t * J + tl.arange(0, J)
        tl.store(to_c + place, tl.sum(to_y[None, :] * after, 1), mask=live)
        to_state = to_y[None, :] * read + carry
        tl.store(to_b + place, tl.sum(to_state * (dt * x)[None, :], 1), mask=live)
        to_push = tl.sum(to_state * write, 0)
        carry = to_state * tl.exp2(dt[None, :] * a2)
        to_exponent = carry * before
        to_dt = tl.sum(to_exponent * a2, 0) * LN2 + to_push * x
        if SOFTPLUS:
            to_dt *= _slope(dt)
        sum_a += to_exponent * dt[None, :]
        sum_d += to_y * x
        sum_bias += tl.where(live, to_dt, 0.0)
        _add(to_u + own, to_push * dt + to_y * skip, there, again, WAYS)
        _add(to_delta + own, to_dt, there, again, WAYS)
    return carry, sum_a, sum_d, sum_bias


@triton.jit
def _walk(
    state, i, end, saved, a2, u, delta, b, bias, start, stop, backwards, channels, inside, e,
    u_stride, delta_stride, b_stride, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, J: tl.constexpr,
    SAVED: tl.constexpr, WRITE: tl.constexpr,
):  # fmt: skip
    """The state before the `end`-th token of a chunk from that before its i-th; with WRITE those before every SAVED-th
    token are written down on the way."""
    while i < end:
        if WRITE and i % SAVED == 0:
            tl.store(saved + tl.cast(i // SAVED, tl.int64) * J * e, state, mask=inside[None, :])
        t, live = token_at(i, start, stop, backwards)
        state, _x, _dt = advance(
            state, a2, u, delta, b, bias, t, live, channels, inside, u_stride, delta_stride, b_stride,
            HAS_BIAS, SOFTPLUS, J,
        )  # fmt: skip
        i += 1
    return state


@triton.jit(do_not_specialize=["n", "total"])
def scan_backward(
    u, delta, a, b, c, d, z, bias, grad, table, before, carried, saved,
    to_u, to_delta, to_a, to_b, to_c, to_d, to_z, to_bias,
    n, e, total, u_stride, delta_stride, b_stride, c_stride, z_stride, grad_stride,
    WAYS: tl.constexpr, REVERSE: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_BEFORE: tl.constexpr, HAS_CARRIED: tl.constexpr,
    J: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr, SAVED: tl.constexpr,
):  # fmt: skip
    """Gradients of u, delta, z (n, e), of B and C (ways, blocks, n, J), of A (ways, total, J, e), of D and the bias
    (total, e); the last five are to be summed. `before` has the states before each chunk, `carried` the gradients of
    those after each by the chunks that follow; `saved` is room for the states before every SAVED-th token of a chunk.
    """
    chunk, block, channels, inside, tile = channels_of(e, J, BLOCK)
    row, held, blocks = table + chunk * COLUMNS, inside[None, :], tl.cdiv(e, BLOCK)
    start, stop = tl.load(row), tl.load(row + 1)
    own = saved + tl.load(row + 3).to(tl.int64) * J * e + tile
    skip, sum_d = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    sum_bias = tl.zeros((BLOCK,), tl.float32)
    if HAS_D:
        skip = tl.load(d + channels, mask=inside, other=0.0)
    way = tl.cast(0, tl.int64)
    while way < WAYS:
        backwards, again = (way == 1) != REVERSE, way == 1
        a2 = tl.load(a + way * J * e + tile, mask=held, other=0.0) * LOG2E
        state = tl.zeros((J, BLOCK), tl.float32)
        if HAS_BEFORE:
            state = tl.load(before + (way * total + chunk) * J * e + tile, mask=held, other=0.0)
        _walk(
            state, tl.cast(0, tl.int32), stop - start, own, a2, u, delta, b, bias, start, stop, backwards, channels,
            inside, e, u_stride, delta_stride, b_stride, HAS_BIAS, SOFTPLUS, J, SAVED, True,
        )  # fmt: skip
        tl.debug_barrier()  # What was written is read.
        carry, sum_a = tl.zeros((J, BLOCK), tl.float32), tl.zeros((J, BLOCK), tl.float32)
        if HAS_CARRIED:
            carry = tl.load(carried + (way * total + chunk) * J * e + tile, mask=held, other=0.0)
        rows = (way * blocks + block) * n * J
        number = (stop - start + GROUP - 1) // GROUP
        while number > 0:
            number -= 1
            at = number * GROUP // SAVED
            state = tl.load(own + tl.cast(at, tl.int64) * J * e, mask=held, other=0.0)
            state = _walk(
                state, at * SAVED, number * GROUP, own, a2, u, delta, b, bias, start, stop, backwards, channels, inside,
                e, u_stride, delta_stride, b_stride, HAS_BIAS, SOFTPLUS, J, SAVED, False,
            )  # fmt: skip
            carry, sum_a, sum_d, sum_bias = _group_backward(
                u, delta, b, c, z, bias, grad, to_u, to_delta, to_b + rows, to_c + rows, to_z, state, carry, sum_a,
                sum_d, sum_bias, a2, skip, number * GROUP, start, stop, backwards, again, channels, inside, e,
                u_stride, delta_stride, b_stride, c_stride, z_stride, grad_stride,
                WAYS, SOFTPLUS, HAS_Z, HAS_BIAS, J, GROUP,
            )  # fmt: skip
        tl.store(to_a + (way * total + chunk) * J * e + tile, sum_a, mask=held)
        tl.debug_barrier()
        way += 1
    mine = chunk.to(tl.int64) * e + channels
    tl.store(to_d + mine, sum_d, mask=inside)
    tl.store(to_bias + mine, sum_bias, mask=inside)
