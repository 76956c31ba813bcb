// exp as a fixed sequence of float32 operations: the same bits on every CPU. Vector kernels repeat
// it, operation by operation (isa/vector_shared/exp-inl.h).
//
// exp(v) = 2^n * (1 + r * E(r)), n = rne(v / ln 2), r = v - n * ln 2. The coefficients are fitted
// for the smallest relative error. NaN passes through.
#pragma once

#include "abi/half.h"

namespace octavo {

constexpr int kExpTerms = 5;
// Of E, from the highest power down.
constexpr float kExpTerm[kExpTerms] = {8.29027221e-03f, 4.18981612e-02f, 1.66676387e-01f,
                                       4.99991477e-01f, 9.99999702e-01f};
constexpr float kPerLn2 = 1.44269504f;
// ln 2 in two parts; the products of the first with integers up to 2^8 are exact.
constexpr float kLn2High = 0.693145752f, kLn2Low = 1.42860682e-6f;
// Adding it rounds to an integer, which the sum then holds in its lowest bits.
constexpr float kRoundToInteger = 12582912.0f;
// Beyond it results, or those of its negative, are denormal or infinite.
constexpr float kExpLimit = 87.0f;

// |v| <= kExpLimit.
static inline float exp_float(float v) {
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
  return e * power;
}

}  // namespace octavo
