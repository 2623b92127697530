// Selective scan on the CPU, forward and backward, computed in float32; the contract is in __init__.py.
// T is what u, delta, z and the output are kept in, and their gradients: float32 or bfloat16. All else is float32.
//
// A block of W channels (the width of a vector register) is independent of all others, so the threads share the blocks,
// and every sum over time belongs to one thread. The (tokens, channels, states) intermediates are never stored: the
// forward pass leaves the states at every CHUNK-th token of a segment, the backward pass recomputes a chunk from there.
// Only the gradients of B and C are sums over channels: each thread adds up whole vectors, and folds them once a chunk.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "vector_math.h"

constexpr int64_t CHUNK = 64;

extern "C" {

// All that both passes read. Pointers may be null where the contract says so; strides are in elements, from token to token.
struct Scan {
  const void *u, *delta, *z;                // T
  const float *a, *b, *c, *d, *bias;        // a is (states, channels)
  const int64_t* bounds;                    // segments + 1 cumulative lengths
  const float* first;                       // (segments, states, channels) or null
  int64_t segments, channels, states;
  int64_t u_stride, delta_stride, b_stride, c_stride, z_stride;
  int64_t softplus, reverse, bfloat16;
};

struct Gradients {
  const void* out;           // T, (tokens, channels)
  void *u, *delta, *z;       // T, of the shapes of the inputs, contiguous
  float *a, *d, *bias;       // so, too; they start at 0
  float* partial;            // (threads, 2, tokens, states), starts at 0
};

int64_t scan_chunk() { return CHUNK; }
}

namespace {

template <typename T, int64_t J>
struct Block {
  const Scan& in;
  const int64_t channel, width;

  Block(const Scan& scan, int64_t block)
      : in(scan), channel(block * W), width(std::min(W, scan.channels - block * W)) {}

  Vec load(const float* from) const { return ::load(from + channel, width); }
  void store(const Vec& value, float* to) const { ::store(value, to + channel, width); }
  void add(const Vec& value, float* to) const { store(load(to) + value, to); }

  // This block of a token's row, in a tensor of T.
  Vec row(const void* from, int64_t token, int64_t stride) const {
    return ::load(static_cast<const T*>(from) + token * stride + channel, width);
  }
  void store_row(const Vec& value, void* to, int64_t token) const {
    ::store(value, static_cast<T*>(to) + token * in.channels + channel, width);
  }
  Vec u(int64_t token) const { return row(in.u, token, in.u_stride); }
  Vec z(int64_t token) const { return row(in.z, token, in.z_stride); }

  // The step that a token stands for, after bias and softplus.
  Vec step(int64_t token) const {
    Vec raw = row(in.delta, token, in.delta_stride);
    if (in.bias) raw = raw + load(in.bias);
    return in.softplus ? softplus(raw) : raw;
  }

  void load_state(Vec* state, const float* from) const {
    for (int64_t j = 0; j < J; ++j) state[j] = from ? load(from + j * in.channels) : Vec(0.0f);
  }

  // A in units of a halving: the decay of a step is 2^(step a2).
  void load_exponents(Vec* a2) const {
    load_state(a2, in.a);
    for (int64_t j = 0; j < J; ++j) a2[j] = a2[j] * Vec(LOG2E);
  }

  void store_state(const Vec* state, float* to) const {
    for (int64_t j = 0; j < J; ++j) store(state[j], to + j * in.channels);
  }
};

// The token that is visited as the i-th of its segment.
inline int64_t visited(const Scan& in, int64_t segment, int64_t i) {
  return in.reverse ? in.bounds[segment + 1] - 1 - i : in.bounds[segment] + i;
}

template <typename T, int64_t J>
void forward_block(const Scan& in, int64_t number, void* out, float* chunks, float* last) {
  const Block<T, J> block(in, number);
  const int64_t plane = J * in.channels;
  Vec a2[J], state[J];
  block.load_exponents(a2);
  const Vec skip = in.d ? block.load(in.d) : Vec(0.0f);
  for (int64_t segment = 0; segment < in.segments; ++segment) {
    const int64_t length = in.bounds[segment + 1] - in.bounds[segment];
    block.load_state(state, in.first ? in.first + segment * plane : nullptr);
    for (int64_t i = 0; i < length; ++i) {
      if (chunks && i % CHUNK == 0) {
        block.store_state(state, chunks);
        chunks += plane;
      }
      const int64_t token = visited(in, segment, i);
      const Vec u = block.u(token), delta = block.step(token), push = delta * u;
      const float *b = in.b + token * in.b_stride, *c = in.c + token * in.c_stride;
      Vec y = skip * u;
      for (int64_t j = 0; j < J; ++j) {
        state[j] = at::vec::fmadd(power_of_two(delta * a2[j]), state[j], push * Vec(b[j]));
        y = at::vec::fmadd(Vec(c[j]), state[j], y);
      }
      if (in.z) {
        const Vec z = block.z(token);
        y = y * z * sigmoid(z);
      }
      block.store_row(y, out, token);
    }
    if (last) block.store_state(state, last + segment * plane);
  }
}

// What a thread keeps of one chunk: decays and states of its tokens, and the vectors that B and C gather.
template <int64_t J>
struct Scratch {
  Vec decay[CHUNK][J], state[CHUNK + 1][J], y[CHUNK], delta[CHUNK];
  Vec to_b[CHUNK][J], to_c[CHUNK][J];
};

template <typename T, int64_t J>
void recompute(const Block<T, J>& block, const Vec* a2, const Vec& skip, int64_t segment, int64_t from, int64_t count,
               const float* chunk, Scratch<J>& kept) {
  const Scan& in = block.in;
  block.load_state(kept.state[0], chunk);
  for (int64_t k = 0; k < count; ++k) {
    const int64_t token = visited(in, segment, from + k);
    const Vec u = block.u(token), delta = block.step(token), push = delta * u;
    const float *b = in.b + token * in.b_stride, *c = in.c + token * in.c_stride;
    Vec y = skip * u;
    for (int64_t j = 0; j < J; ++j) {
      kept.decay[k][j] = power_of_two(delta * a2[j]);
      kept.state[k + 1][j] = at::vec::fmadd(kept.decay[k][j], kept.state[k][j], push * Vec(b[j]));
      y = at::vec::fmadd(Vec(c[j]), kept.state[k + 1][j], y);
    }
    kept.y[k] = y;
    kept.delta[k] = delta;
  }
}

// One chunk of one block, from its last token to its first; `carry` is the gradient that reaches the state after it.
template <typename T, int64_t J>
void backward_chunk(const Block<T, J>& block, const Vec* a, const Vec& skip, Vec* carry, int64_t segment, int64_t from,
                    int64_t count, Scratch<J>& kept, const Gradients& grad) {
  const Scan& in = block.in;
  Vec to_a[J], to_skip(0.0f), to_bias(0.0f);
  for (int64_t j = 0; j < J; ++j) to_a[j] = Vec(0.0f);
  for (int64_t k = count - 1; k >= 0; --k) {
    const int64_t token = visited(in, segment, from + k);
    const Vec u = block.u(token), delta = kept.delta[k], push = delta * u;
    const float *b = in.b + token * in.b_stride, *c = in.c + token * in.c_stride;
    Vec to_y = block.row(grad.out, token, in.channels);
    if (in.z) {
      const Vec z = block.z(token), gate = sigmoid(z);
      block.store_row(to_y * kept.y[k] * gate * (Vec(1.0f) + z * (Vec(1.0f) - gate)), grad.z, token);
      to_y = to_y * z * gate;
    }
    Vec to_push(0.0f), to_delta(0.0f);
    for (int64_t j = 0; j < J; ++j) {
      const Vec to_state = at::vec::fmadd(to_y, Vec(c[j]), carry[j]);
      kept.to_c[k][j] = at::vec::fmadd(to_y, kept.state[k + 1][j], kept.to_c[k][j]);
      kept.to_b[k][j] = at::vec::fmadd(to_state, push, kept.to_b[k][j]);
      to_push = at::vec::fmadd(to_state, Vec(b[j]), to_push);
      carry[j] = to_state * kept.decay[k][j];
      const Vec to_exponent = carry[j] * kept.state[k][j];
      to_delta = at::vec::fmadd(to_exponent, a[j], to_delta);
      to_a[j] = at::vec::fmadd(to_exponent, delta, to_a[j]);
    }
    block.store_row(at::vec::fmadd(to_push, delta, to_y * skip), grad.u, token);
    to_skip = at::vec::fmadd(to_y, u, to_skip);
    to_delta = at::vec::fmadd(to_push, u, to_delta);
    if (in.softplus) to_delta = to_delta * softplus_slope(delta);
    block.store_row(to_delta, grad.delta, token);
    to_bias = to_bias + to_delta;
  }
  for (int64_t j = 0; j < J; ++j) block.add(to_a[j], grad.a + j * in.channels);
  if (grad.d) block.add(to_skip, grad.d);
  if (grad.bias) block.add(to_bias, grad.bias);
}

template <int64_t J>
void fold(const Scan& in, int64_t segment, int64_t from, int64_t count, Scratch<J>& kept, float* to_b, float* to_c) {
  for (int64_t k = 0; k < count; ++k) {
    const int64_t place = visited(in, segment, from + k) * J;
    for (int64_t j = 0; j < J; ++j) {
      const auto sum = [](Vec x) { return at::vec::vec_reduce_all<float>([](Vec& p, Vec& q) { return p + q; }, x); };
      to_b[place + j] = sum(kept.to_b[k][j]);
      to_c[place + j] = sum(kept.to_c[k][j]);
    }
  }
}

// All chunks, the last first, of the blocks [begin, end).
template <typename T, int64_t J>
void backward_blocks(const Scan& in, int64_t begin, int64_t end, const float* chunks, const Gradients& grad, float* to_b,
                     float* to_c) {
  const int64_t plane = J * in.channels;
  std::vector<Vec> carries((end - begin) * J);
  const auto kept = std::make_unique<Scratch<J>>();
  int64_t number = 0;
  for (int64_t segment = 0; segment < in.segments; ++segment)
    number += (in.bounds[segment + 1] - in.bounds[segment] + CHUNK - 1) / CHUNK;
  for (int64_t segment = in.segments - 1; segment >= 0; --segment) {
    const int64_t length = in.bounds[segment + 1] - in.bounds[segment];
    std::fill(carries.begin(), carries.end(), Vec(0.0f));
    for (int64_t from = (length - 1) / CHUNK * CHUNK; from >= 0 && length > 0; from -= CHUNK) {
      const int64_t count = std::min(CHUNK, length - from);
      --number;
      for (int64_t k = 0; k < count; ++k)
        for (int64_t j = 0; j < J; ++j) kept->to_b[k][j] = kept->to_c[k][j] = Vec(0.0f);
      for (int64_t place = begin; place < end; ++place) {
        const Block<T, J> block(in, place);
        Vec a[J], a2[J];
        block.load_state(a, in.a);
        block.load_exponents(a2);
        const Vec skip = in.d ? block.load(in.d) : Vec(0.0f);
        recompute(block, a2, skip, segment, from, count, chunks + number * plane, *kept);
        backward_chunk(block, a, skip, &carries[(place - begin) * J], segment, from, count, *kept, grad);
      }
      fold<J>(in, segment, from, count, *kept, to_b, to_c);
    }
  }
}

template <typename T, int64_t J>
void forward(const Scan& in, void* out, float* chunks, float* last) {
  at::parallel_for(0, (in.channels + W - 1) / W, 1, [&](int64_t begin, int64_t end) {
    for (int64_t number = begin; number < end; ++number) forward_block<T, J>(in, number, out, chunks, last);
  });
}

template <typename T, int64_t J>
void backward(const Scan& in, const float* chunks, const Gradients& grad) {
  const int64_t tokens = in.bounds[in.segments];
  at::parallel_for(0, (in.channels + W - 1) / W, 1, [&](int64_t begin, int64_t end) {
    float* own = grad.partial + at::get_thread_num() * 2 * tokens * J;
    backward_blocks<T, J>(in, begin, end, chunks, grad, own, own + tokens * J);
  });
}

template <typename T>
int forward_of(const Scan& in, void* out, float* chunks, float* last) {
  switch (in.states) {
    case 1: forward<T, 1>(in, out, chunks, last); return 0;
    case 4: forward<T, 4>(in, out, chunks, last); return 0;
    case 8: forward<T, 8>(in, out, chunks, last); return 0;
    case 16: forward<T, 16>(in, out, chunks, last); return 0;
    case 32: forward<T, 32>(in, out, chunks, last); return 0;
    default: return 1;
  }
}

template <typename T>
int backward_of(const Scan& in, const float* chunks, const Gradients& grad) {
  switch (in.states) {
    case 1: backward<T, 1>(in, chunks, grad); return 0;
    case 4: backward<T, 4>(in, chunks, grad); return 0;
    case 8: backward<T, 8>(in, chunks, grad); return 0;
    case 16: backward<T, 16>(in, chunks, grad); return 0;
    case 32: backward<T, 32>(in, chunks, grad); return 0;
    default: return 1;
  }
}

}  // namespace

extern "C" {

// Returns 0, or 1 when there is no version for this number of states.
int scan_forward(const Scan* in, void* out, float* chunks, float* last) {
  return in->bfloat16 ? forward_of<at::BFloat16>(*in, out, chunks, last) : forward_of<float>(*in, out, chunks, last);
}

int scan_backward(const Scan* in, const float* chunks, const Gradients* grad) {
  return in->bfloat16 ? backward_of<at::BFloat16>(*in, chunks, *grad) : backward_of<float>(*in, chunks, *grad);
}
}
