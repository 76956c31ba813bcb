// The normative arithmetic of requantization: what every kernel computes, to the bit.
//
// float32, one operation at a time, never contracted into a fused multiply-add (the build passes
// -ffp-contract=off), rounding half to even. Clamping comes before the conversion to integer
// because vector conversions return INT_MIN on overflow. The comparisons are written so that NaN
// takes the lower bound, as x86 max/min with the value as first operand do.
#pragma once

#include <cstdint>

#include "abi/gelu.h"
#include "abi/half.h"
#include "abi/kernel_abi.h"

namespace octavo {

// float(x) rounded half to even; |x| < 2^22. Adding and subtracting 1.5 * 2^23 leaves no fraction
// bits, so this is the current (default) rounding mode's result on every IEEE machine, and
// compilers vectorize it.
static inline float round_half_even(float x) {
  const float magic = 12582912.0f;
  return (x + magic) - magic;
}

static inline float clamp_float(float x, float lo, float hi) {
  x = x > lo ? x : lo;
  return x < hi ? x : hi;
}

// The int32 accumulator of element (m, n) with the corrections that depend on the row.
static inline int32_t correct_accumulator(uint32_t acc, const Epilogue& e, int32_t m, int32_t n) {
  if (e.row_zero) acc -= static_cast<uint32_t>(e.row_zero[m]) * static_cast<uint32_t>(e.col_sum[n]);
  if (e.w_zero) acc -= static_cast<uint32_t>(e.w_zero[n]) * static_cast<uint32_t>(e.row_sum[m]);
  return static_cast<int32_t>(acc);
}

// Integer output relative to out_zero, as a float that holds an integer in [lo, hi].
static inline float requantize_to_steps(int32_t acc, const Epilogue& e, int32_t m, int32_t n) {
  float x = static_cast<float>(acc);
  if (e.row_scale) x = x * e.row_scale[m];
  x = x + e.bias[n];
  x = x * e.mult[n];
  if (e.add) {
    const char* row = static_cast<const char*>(e.add) + m * e.add_stride;
    const int32_t q = e.add_signed ? static_cast<int32_t>(reinterpret_cast<const int8_t*>(row)[n])
                                   : static_cast<int32_t>(reinterpret_cast<const uint8_t*>(row)[n]);
    const float residual = static_cast<float>(q - e.add_zero) * e.add_scale;
    x = x + residual;
  }
  return round_half_even(clamp_float(x, e.lo, e.hi));
}

static inline float dequantize_accumulator(int32_t acc, const Epilogue& e, int32_t m, int32_t n) {
  float x = static_cast<float>(acc);
  if (e.row_scale) x = x * e.row_scale[m];
  x = x * e.mult[n];
  x = x + e.bias[n];
  if (e.gelu) x = gelu(x);
  // Unlike clamp_float, NaN passes through, as in float code: x86 max/min with the value as second
  // operand.
  return clamp_or_nan(x, e.lo, e.hi);
}

// Stores one output of the given kind at column `col` of the tile's row pointer.
static inline void store_output(OutKind kind, uint32_t raw_acc, const Epilogue& e, int32_t m,
                                int32_t n, void* row, int32_t col) {
  const int32_t acc = correct_accumulator(raw_acc, e, m, n);
  switch (kind) {
    case OutKind::kI32:
      static_cast<int32_t*>(row)[col] = acc;
      break;
    case OutKind::kU8:
      static_cast<uint8_t*>(row)[col] = static_cast<uint8_t>(
          static_cast<int32_t>(requantize_to_steps(acc, e, m, n)) + e.out_zero);
      break;
    case OutKind::kS8:
      static_cast<int8_t*>(row)[col] =
          static_cast<int8_t>(static_cast<int32_t>(requantize_to_steps(acc, e, m, n)) + e.out_zero);
      break;
    case OutKind::kF32:
      static_cast<float*>(row)[col] = dequantize_accumulator(acc, e, m, n);
      break;
    case OutKind::kBF16:
      static_cast<uint16_t*>(row)[col] = float_to_bf16(dequantize_accumulator(acc, e, m, n));
      break;
    case OutKind::kF16:
      static_cast<uint16_t*>(row)[col] = float_to_f16(dequantize_accumulator(acc, e, m, n));
      break;
  }
}

}  // namespace octavo
