// What the C++ kernels compute with: vectors of float32 as torch has them, read from and written to tensors of float32 or
// bfloat16, and functions inlined into their loops.

#pragma once

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cstdint>

using Vec = at::vec::Vectorized<float>;
constexpr int64_t W = Vec::size();

namespace {

constexpr float LOG2E = 1.44269504f;

// Up to W elements of a row; bfloat16 is widened on its way in and rounded once on its way out.
inline Vec load(const float* from, int64_t count) { return count == W ? Vec::loadu(from) : Vec::loadu(from, count); }

inline Vec load(const at::BFloat16* from, int64_t count) {
  at::BFloat16 padded[W];
  if (count < W) {
    std::fill(std::copy_n(from, count, padded), padded + W, at::BFloat16(0.0f));
    from = padded;
  }
  Vec wide;
  at::vec::load_fp32_from_bf16(from, wide);
  return wide;
}

inline void store(const Vec& value, float* to, int64_t count) { count == W ? value.store(to) : value.store(to, count); }

inline void store(const Vec& value, at::BFloat16* to, int64_t count) {
  at::vec::convert_float_bfloat16(value, value).store(to, count);
}

// 2^x, within two units in the last place, inlined where a call would spill every register. The decay of a scan is
// 2^(step A log2(e)): with log2(e) in A the argument needs no reduction but the split into a whole and a fraction.
inline Vec power_of_two(const Vec& x) {
#if defined(CPU_CAPABILITY_AVX512)
  const Vec whole = Vec(_mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)), f = x - whole;
#else
  const Vec bounded = at::vec::clamp(x, Vec(-126.0f), Vec(127.0f)), whole = bounded.round(), f = bounded - whole;
#endif
  Vec p = Vec(1.534580746e-4f);  // minimax on [-1/2, 1/2]
  p = at::vec::fmadd(p, f, Vec(1.339993118e-3f));
  p = at::vec::fmadd(p, f, Vec(9.618488974e-3f));
  p = at::vec::fmadd(p, f, Vec(5.550328777e-2f));
  p = at::vec::fmadd(p, f, Vec(2.402264689e-1f));
  p = at::vec::fmadd(p, f, Vec(6.931472057e-1f));
  p = at::vec::fmadd(p, f, Vec(1.0f));
#if defined(CPU_CAPABILITY_AVX512)
  return Vec(_mm512_scalef_ps(p, whole));
#else
  const auto exponent = at::vec::convert_to_int_of_same_size(whole) + at::vec::Vectorized<int32_t>(127);
  return p * at::vec::cast<float, int32_t>(exponent << at::vec::Vectorized<int32_t>(23));
#endif
}

inline Vec exponential(const Vec& x) { return power_of_two(x * Vec(LOG2E)); }

inline Vec sigmoid(const Vec& x) { return Vec(1.0f) / (Vec(1.0f) + exponential(x.neg())); }

// log(1 + exp(x)) without overflow: with y = exp(-|x|), log(1 + y) = 2 atanh(y / (2 + y)) by its series.
inline Vec softplus(const Vec& x) {
  const Vec y = exponential(x.abs().neg()), t = y / (y + Vec(2.0f)), square = t * t;
  Vec p = Vec(1.220629942e-1f);  // minimax for square up to 1/9
  p = at::vec::fmadd(p, square, Vec(1.069669672e-1f));
  p = at::vec::fmadd(p, square, Vec(1.431035316e-1f));
  p = at::vec::fmadd(p, square, Vec(1.999934583e-1f));
  p = at::vec::fmadd(p, square, Vec(3.333333965e-1f));
  p = at::vec::fmadd(p, square, Vec(1.0f));
  return at::vec::fmadd(t + t, p, at::vec::maximum(x, Vec(0.0f)));
}

// The slope of softplus, told from its value s: 1 - exp(-s), by its series where that would cancel.
inline Vec softplus_slope(const Vec& s) {
  Vec p = at::vec::fmadd(s, Vec(-1.0f / 6.0f), Vec(1.0f));
  for (const float order : {5.0f, 4.0f, 3.0f, 2.0f}) p = at::vec::fmadd(s * p, Vec(-1.0f / order), Vec(1.0f));
  return Vec::blendv(Vec(1.0f) - exponential(s.neg()), s * p, s < Vec(0.25f));
}

}  // namespace
