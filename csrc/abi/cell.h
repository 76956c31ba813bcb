// What recurrent cells compute, as fixed sequences of float32 operations: the same bits on every
// CPU. Vector kernels repeat these sequences, operation by operation.
//
// sigmoid(x) = 1 / (1 + exp(-x)), exp being that of abi/exp.h; within 1e-7 of the exact value.
// Arguments beyond +-87, where the result would be denormal, count as +-87. tanh(x) = x * P(x^2) /
// Q(x^2), x clamped to where tanh(x) is 1 in float32; within 4e-7 relative. The coefficients are
// fitted for the smallest relative error. NaN passes through.
#pragma once

#include "abi/exp.h"
#include "abi/gelu.h"

namespace octavo {

constexpr int kTanhTerms = 5;
// Of P and Q, from the highest power of x^2 down.
constexpr float kTanhNumerator[kTanhTerms] = {1.33190490e-08f, 2.05834640e-05f, 3.49403359e-03f,
                                              1.33797169e-01f, 1.0f};
constexpr float kTanhDenominator[kTanhTerms] = {7.76200977e-07f, 3.28309106e-04f, 2.58710682e-02f,
                                                4.67130333e-01f, 1.0f};
constexpr float kTanhIsOne = 9.02f;

static inline float cell_sigmoid(float x) {
  const float v = clamp_or_nan(0.0f - x, -kExpLimit, kExpLimit);
  return 1.0f / (1.0f + exp_float(v));
}

static inline float cell_tanh(float x) {
  const float z = clamp_or_nan(x, -kTanhIsOne, kTanhIsOne);
  const float t = z * z;
  float p = kTanhNumerator[0], q = kTanhDenominator[0];
  for (int i = 1; i < kTanhTerms; ++i) {
    p = p * t;
    p = p + kTanhNumerator[i];
    q = q * t;
    q = q + kTanhDenominator[i];
  }
  return clamp_or_nan(z * p / q, -1.0f, 1.0f);
}

}  // namespace octavo
