// The weights of attention as a fixed sequence of float32 operations: the same bits on every CPU.
// Vector kernels repeat it, operation by operation.
//
// A weight is exp(score - largest score of the row) in steps of 1 / 65535, the largest being 65535:
// two bytes, each of which int8 kernels multiply exactly. exp is that of abi/exp.h.
#pragma once

#include "abi/exp.h"
#include "abi/requantize.h"

namespace octavo {

constexpr float kAttentionOne = 65535.0f;
// exp of it and of less rounds to 0.
constexpr float kAttentionLowest = -15.0f;

// x <= 0; an integer in 0 .. 65535.
static inline float attention_weight(float x) {
  const float v = x > kAttentionLowest ? x : kAttentionLowest;
  return round_half_even(exp_float(v) * kAttentionOne);
}

}  // namespace octavo
