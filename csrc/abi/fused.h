// a * b + c in float32 with one rounding, for CPUs that have no instruction for it.
#pragma once

#include <cstdint>
#include <cstring>

namespace octavo {

// The product is exact in float64. The sum is not always, and rounding it a second time could err
// where it falls between two float32; so what was lost makes its last bit odd, which no rounding to
// so many fewer bits takes for a tie. Infinities and NaN give what the instruction gives.
static inline float fused_multiply_add(float a, float b, float c) {
  const double product = static_cast<double>(a) * static_cast<double>(b);
  const double addend = static_cast<double>(c);
  double sum = product + addend;
  const double part = sum - product;
  const double lost = (product - (sum - part)) + (addend - part);
  int64_t bits;
  std::memcpy(&bits, &sum, sizeof bits);
  const bool inexact = lost < 0.0 || lost > 0.0;  // NaN where the sum is not finite
  if (inexact && (bits & 1) == 0) {
    bits += (lost > 0.0) == (sum > 0.0) ? 1 : -1;
    std::memcpy(&sum, &bits, sizeof sum);
  }
  return static_cast<float>(sum);
}

}  // namespace octavo
