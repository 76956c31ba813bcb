// Rounding to levels and back, and its gradient, in plain C++.
#pragma once

#include "abi/kernel_abi.h"

namespace octavo {
namespace {

// Half to even. Adding 2^23 leaves no fraction bits below it; above it there are none.
static inline float round_any(float x) {
  const float magnitude = x < 0.0f ? -x : x;
  const float magic = 8388608.0f;
  const float rounded = (magnitude + magic) - magic;
  return magnitude < magic ? (x < 0.0f ? -rounded : rounded) : x;
}

static void fake_quantize_portable(const FakeQuantizeArgs* args) {
  const FakeQuantizeArgs p = *args;
  for (int64_t i = 0; i < p.size; ++i) {
    const float steps = round_any(p.x[i] * p.inverse);
    float level = steps < p.lo ? p.lo : steps;
    level = level > p.hi ? p.hi : level;
    p.out[i] = (level + 0.0f) * p.scale;
    if (p.inside) p.inside[i] = level == steps;
  }
}

static void masked_gradient_portable(const float* gradient, const uint8_t* inside, int64_t size,
                                     float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] = gradient[i] * static_cast<float>(inside[i]);
}

}  // namespace
}  // namespace octavo
