// Attention weights and outputs in plain C++. Each ISA folder compiles its own copy.
#pragma once

#include "abi/attention.h"
#include "abi/kernel_abi.h"

namespace octavo {
namespace {

static int32_t attention_weights_portable(const int32_t* scores, int64_t size, float factor,
                                          uint8_t* high, uint8_t* low) {
  int32_t largest = scores[0];
  for (int64_t i = 1; i < size; ++i) largest = scores[i] > largest ? scores[i] : largest;
  int32_t sum = 0;
  for (int64_t i = 0; i < size; ++i) {
    const float x = static_cast<float>(scores[i] - largest) * factor;
    const int32_t weight = static_cast<int32_t>(attention_weight(x));
    high[i] = static_cast<uint8_t>(weight >> 8);
    low[i] = static_cast<uint8_t>(weight);
    sum += weight;
  }
  return sum;
}

static inline float attention_value(int32_t high, int32_t low, const AttentionOutputArgs& a) {
  const float both = static_cast<float>(high) * 256.0f + static_cast<float>(low);
  return both * a.factor + a.shift;
}

static void attention_output_portable(const AttentionOutputArgs* args) {
  const AttentionOutputArgs a = *args;
  const int32_t least = a.out_signed ? -128 : 0;
  const float lo = static_cast<float>(least - a.out_zero);
  const float hi = static_cast<float>(least + 255 - a.out_zero);
  uint8_t* out = static_cast<uint8_t*>(a.out);
  for (int64_t i = 0; i < a.size; ++i) {
    const float t = clamp_float(attention_value(a.high[i], a.low[i], a), lo, hi);
    out[i] = static_cast<uint8_t>(static_cast<int32_t>(round_half_even(t)) + a.out_zero);
  }
}

}  // namespace
}  // namespace octavo
