// The weights of attention as a fixed sequence of float32 operations: the same bits on every CPU.
// Vector kernels repeat it, operation by operation.
//
// A weight is exp(score - largest score of the row) in steps of 1 / 65535, the largest being 65535:
// two bytes, each of which int8 kernels multiply exactly. exp is that of abi/cell.h.
#pragma once

#include "abi/cell.h"
#include "abi/requantize.h"

namespace octavo {

constexpr float kAttentionOne = 65535.0f;
// exp of it and of less rounds to 0.
constexpr float kAttentionLowest = -15.0f;

// x <= 0; an integer in 0 .. 65535.
static inline float attention_weight(float x) {
  const float v = x > kAttentionLowest ? x : kAttentionLowest;
  float shifted = v * kPerLn2;
  shifted = shifted + kRoundToInteger;
  const float n = shifted - kRoundToInteger;
  float r = v - n * kLn2High;
  r = r - n * kLn2Low;
  float e = kExpTerm[0];
  for (int i = 1; i < kExpTerms; ++i) {
    e = e * r;
    e = e + kExpTerm[i];
  }
  e = e * r;
  e = e + 1.0f;
  const float power = bits_float((float_bits(shifted) << 23) + 0x3f800000u);
  return round_half_even(e * power * kAttentionOne);
}

}  // namespace octavo
