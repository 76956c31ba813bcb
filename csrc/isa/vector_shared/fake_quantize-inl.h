// Rounding to levels and back, and its gradient, on vectors of floats of either width.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"

namespace octavo {
namespace {

// 5 registers of constants, 8 of values.
template <typename F, bool kInside>
static void fake_quantize_run(const FakeQuantizeArgs& args) {
  const FakeQuantizeArgs p = args;  // which stores of bytes cannot change
  using Vec = typename F::Vec;
  constexpr int kCount = F::kCount;
  const Vec inverse = F::set(p.inverse), scale = F::set(p.scale), zero = F::set(0.0f);
  const Vec lo = F::set(p.lo), hi = F::set(p.hi);
  // Bounds come first, so that NaN passes.
  const auto level = [&](Vec steps)
                         OCTAVO_INLINE { return F::add(F::min(hi, F::max(lo, steps)), zero); };
  int64_t i = 0;
  for (; i + 4 * kCount <= p.size; i += 4 * kCount) {
    Vec steps[4], levels[4];
    unroll<4>([&](auto j) OCTAVO_INLINE {
      steps[j] = F::round(F::mul(F::load(p.x + i + j * kCount, kCount), inverse));
      levels[j] = level(steps[j]);
      F::store(p.out + i + j * kCount, F::mul(levels[j], scale), kCount);
    });
    if constexpr (kInside) F::store_equal(p.inside + i, steps, levels);
  }
  for (; i < p.size; i += kCount) {
    const int count = static_cast<int>(p.size - i < kCount ? p.size - i : kCount);
    const Vec steps = F::round(F::mul(F::load(p.x + i, count), inverse));
    const Vec levels = level(steps);
    F::store(p.out + i, F::mul(levels, scale), count);
    if constexpr (kInside) F::store_equal(p.inside + i, steps, levels, count);
  }
}

template <typename F>
void fake_quantize_vectors(const FakeQuantizeArgs* args) {
  args->inside ? fake_quantize_run<F, true>(*args) : fake_quantize_run<F, false>(*args);
}

template <typename F>
void masked_gradient_vectors(const float* gradient, const uint8_t* inside, int64_t size,
                             float* out) {
  int64_t i = 0;
  for (; i + F::kCount <= size; i += F::kCount) {
    const auto factor = F::from_bytes(inside + i, F::kCount);
    F::store(out + i, F::mul(F::load(gradient + i, F::kCount), factor), F::kCount);
  }
  if (i < size) {
    const int count = static_cast<int>(size - i);
    F::store(out + i, F::mul(F::load(gradient + i, count), F::from_bytes(inside + i, count)),
             count);
  }
}

}  // namespace
}  // namespace octavo
