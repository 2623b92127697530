// Causal depthwise convolution and SiLU on the CPU, forward and backward, computed in float32; the contract is in
// __init__.py. T is what x and the output are kept in, and their gradients: float32 or bfloat16. All else is float32.
//
// A block of W channels (the width of a vector register) is independent of all others, so the threads share the blocks.
// The sum before SiLU is never stored: the backward pass computes it again.

#include <ATen/Parallel.h>

#include <algorithm>

#include "vector_math.h"

extern "C" {

struct Conv {
  const void* x;               // T
  const float *weight, *bias;  // weight is (WINDOW, channels); its last row meets the token itself
  const int64_t* bounds;       // segments + 1 cumulative lengths
  int64_t segments, channels, x_stride, reverse, bfloat16;
};

}

namespace {

constexpr int64_t WINDOW = 4;

// One block of channels: its weights, and the last inputs of the segment that is being walked.
template <typename T>
struct Block {
  const Conv& conv;
  int64_t first, count;
  Vec weight[WINDOW], bias, seen[WINDOW];

  Block(const Conv& conv, int64_t number)
      : conv(conv), first(number * W), count(std::min(W, conv.channels - first)) {
    for (int64_t k = 0; k < WINDOW; ++k) weight[k] = Vec::loadu(conv.weight + k * conv.channels + first, count);
    bias = Vec::loadu(conv.bias + first, count);
  }

  // The token that is visited as the i-th of a segment.
  int64_t token(int64_t segment, int64_t i) const {
    return conv.reverse ? conv.bounds[segment + 1] - 1 - i : conv.bounds[segment] + i;
  }

  int64_t length(int64_t segment) const { return conv.bounds[segment + 1] - conv.bounds[segment]; }

  void begin() {
    for (auto& past : seen) past = Vec(0.0f);
  }

  // Take the token in; what comes before SiLU.
  Vec next(int64_t t) {
    for (int64_t k = 0; k + 1 < WINDOW; ++k) seen[k] = seen[k + 1];
    seen[WINDOW - 1] = load(static_cast<const T*>(conv.x) + t * conv.x_stride + first, count);
    Vec sum = bias;
    for (int64_t k = 0; k < WINDOW; ++k) sum = at::vec::fmadd(weight[k], seen[k], sum);
    return sum;
  }
};

template <typename T>
void forward(const Conv& conv, int64_t number, T* out) {
  Block<T> block(conv, number);
  for (int64_t segment = 0; segment < conv.segments; ++segment) {
    block.begin();
    for (int64_t i = 0; i < block.length(segment); ++i) {
      const int64_t t = block.token(segment, i);
      const Vec sum = block.next(t);
      store(sum * sigmoid(sum), out + t * conv.channels + block.first, block.count);
    }
  }
}

template <typename T>
void backward(const Conv& conv, int64_t number, const T* grad, T* to_x, float* to_weight, float* to_bias) {
  Block<T> block(conv, number);
  Vec sum_weight[WINDOW], sum_bias(0.0f);
  for (auto& sum : sum_weight) sum = Vec(0.0f);
  for (int64_t segment = 0; segment < conv.segments; ++segment) {
    const int64_t length = block.length(segment);
    Vec later[WINDOW];  // gradients before SiLU of the last tokens; a token's own input waits for those after it
    for (auto& past : later) past = Vec(0.0f);
    block.begin();
    for (int64_t i = 0; i < length + WINDOW - 1; ++i) {
      for (int64_t k = 0; k + 1 < WINDOW; ++k) later[k] = later[k + 1];
      later[WINDOW - 1] = Vec(0.0f);
      if (i < length) {
        const int64_t t = block.token(segment, i);
        const Vec sum = block.next(t), share = sigmoid(sum);
        const Vec to_out = load(grad + t * conv.channels + block.first, block.count);
        const Vec to_sum = to_out * share * (Vec(1.0f) + sum * (Vec(1.0f) - share));
        for (int64_t k = 0; k < WINDOW; ++k) sum_weight[k] = at::vec::fmadd(to_sum, block.seen[k], sum_weight[k]);
        sum_bias = sum_bias + to_sum;
        later[WINDOW - 1] = to_sum;
      }
      if (i >= WINDOW - 1) {
        Vec own(0.0f);
        for (int64_t k = 0; k < WINDOW; ++k) own = at::vec::fmadd(block.weight[WINDOW - 1 - k], later[k], own);
        store(own, to_x + block.token(segment, i - WINDOW + 1) * conv.channels + block.first, block.count);
      }
    }
  }
  for (int64_t k = 0; k < WINDOW; ++k) sum_weight[k].store(to_weight + k * conv.channels + block.first, block.count);
  sum_bias.store(to_bias + block.first, block.count);
}

// All blocks of channels, shared by the threads.
template <typename Work>
void blocks(const Conv& conv, const Work& work) {
  at::parallel_for(0, (conv.channels + W - 1) / W, 1, [&](int64_t first, int64_t last) {
    for (int64_t number = first; number < last; ++number) work(number);
  });
}

template <typename T>
void forward_of(const Conv& conv, void* out) {
  blocks(conv, [&](int64_t number) { forward<T>(conv, number, static_cast<T*>(out)); });
}

template <typename T>
void backward_of(const Conv& conv, const void* grad, void* to_x, float* to_weight, float* to_bias) {
  blocks(conv, [&](int64_t number) {
    backward<T>(conv, number, static_cast<const T*>(grad), static_cast<T*>(to_x), to_weight, to_bias);
  });
}

}  // namespace

extern "C" {

int64_t conv_window() { return WINDOW; }

// out: T, (tokens, channels).
void conv_forward(const Conv* conv, void* out) {
  conv->bfloat16 ? forward_of<at::BFloat16>(*conv, out) : forward_of<float>(*conv, out);
}

// Gradients of the shapes of the inputs, contiguous; grad and to_x are T.
void conv_backward(const Conv* conv, const void* grad, void* to_x, float* to_weight, float* to_bias) {
  const auto run = conv->bfloat16 ? backward_of<at::BFloat16> : backward_of<float>;
  run(*conv, grad, to_x, to_weight, to_bias);
}
}
