// What recurrent cells compute, as fixed sequences of float32 operations: the same bits on every
// CPU. Vector kernels repeat these sequences, operation by operation.
//
// sigmoid(x) = 1 / (1 + exp(-x)), with exp(v) = 2^n * (1 + r * E(r)), n = rne(v / ln 2); within
// 1e-7 of the exact value. Arguments beyond +-87, where the result would be denormal, count as
// +-87. tanh(x) = x * P(x^2) / Q(x^2), x clamped to where tanh(x) is 1 in float32; within 4e-7
// relative. The coefficients are fitted for the smallest relative error. NaN passes through.
#pragma once

#include "abi/gelu.h"
#include "abi/half.h"

namespace octavo {

constexpr int kTanhTerms = 5;
// Of P and Q, from the highest power of x^2 down.
constexpr float kTanhNumerator[kTanhTerms] = {1.33190490e-08f, 2.05834640e-05f, 3.49403359e-03f,
                                              1.33797169e-01f, 1.0f};
constexpr float kTanhDenominator[kTanhTerms] = {7.76200977e-07f, 3.28309106e-04f, 2.58710682e-02f,
                                                4.67130333e-01f, 1.0f};
constexpr float kTanhIsOne = 9.02f;

constexpr int kExpTerms = 5;
// Of E, from the highest power down.
constexpr float kExpTerm[kExpTerms] = {8.29027221e-03f, 4.18981612e-02f, 1.66676387e-01f,
                                       4.99991477e-01f, 9.99999702e-01f};
constexpr float kExpLimit = 87.0f;
constexpr float kPerLn2 = 1.44269504f;
// ln 2 in two parts; the products of the first with integers up to 2^8 are exact.
constexpr float kLn2High = 0.693145752f, kLn2Low = 1.42860682e-6f;
// Adding it rounds to an integer, which the sum then holds in its lowest bits.
constexpr float kRoundToInteger = 12582912.0f;

static inline float cell_sigmoid(float x) {
  const float v = clamp_or_nan(0.0f - x, -kExpLimit, kExpLimit);
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
  return 1.0f / (1.0f + e * power);
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
