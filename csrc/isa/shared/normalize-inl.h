// Look-up tables, linear functions by column, moments and softmax in plain C++. Each ISA folder
// compiles its own copy.
#pragma once

#include "abi/fused.h"
#include "abi/kernel_abi.h"
#include "abi/requantize.h"

namespace octavo {
namespace {

static void lookup_portable(const uint8_t* table, const void* in, int64_t size, void* out) {
  const uint8_t* x = static_cast<const uint8_t*>(in);
  uint8_t* y = static_cast<uint8_t*>(out);
  for (int64_t i = 0; i < size; ++i) y[i] = table[x[i]];
}

// Beyond every 8-bit result, and small enough for round_half_even and for int32.
constexpr float kAffineLimit = 1 << 21;

// A float in units of output steps as the byte that is stored.
static inline uint8_t to_byte(float t, int32_t out_zero, int32_t lo, int32_t hi) {
  const float steps = round_half_even(clamp_float(t, -kAffineLimit, kAffineLimit));
  const int32_t q = static_cast<int32_t>(steps) + out_zero;
  return static_cast<uint8_t>(q < lo ? lo : q > hi ? hi : q);
}

template <AffineKind kKind>
static inline float affine_value(float q, const AffineArgs& p, int64_t row, float scale,
                                 float shift) {
  if (kKind == AffineKind::kPrelu) {
    const float x = q - p.center;
    return x >= 0.0f ? x * p.factor : x * scale;
  }
  if (kKind == AffineKind::kNormalize) {
    q = fused_multiply_add(q, p.row_scale[row], p.row_shift[row]);
  }
  return fused_multiply_add(q, scale, shift);
}

template <AffineKind kKind, typename T>
void affine_portable(const AffineArgs* args) {
  const AffineArgs p = *args;
  const int32_t hi = p.out_signed ? 127 : 255;
  for (int64_t r = 0; r < p.rows; ++r) {
    const T* in = static_cast<const T*>(p.in) + r * p.in_stride;
    uint8_t* out = static_cast<uint8_t*>(p.out) + r * p.out_stride;
    for (int64_t c = 0; c < p.columns; ++c) {
      const int64_t at = p.uniform ? 0 : c;
      const float shift = kKind == AffineKind::kPrelu ? 0.0f : p.shift[at];
      const float t = affine_value<kKind>(static_cast<float>(in[c]), p, r, p.scale[at], shift);
      out[c] = to_byte(t, p.out_zero, p.lo, hi);
    }
  }
}

static void moments_portable(const void* q, int64_t size, int32_t flip, int64_t* sums) {
  const uint8_t* x = static_cast<const uint8_t*>(q);
  int64_t sum = 0, square = 0;
  for (int64_t i = 0; i < size; ++i) {
    const int32_t v = x[i] ^ flip;
    sum += v;
    square += v * v;
  }
  sums[0] += sum;
  sums[1] += square;
}

static void column_moments_portable(const void* q, int64_t rows, ptrdiff_t stride, int64_t columns,
                                    int32_t flip, int32_t* sums, int32_t* squares) {
  for (int64_t c = 0; c < columns; ++c) sums[c] = squares[c] = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* x = static_cast<const uint8_t*>(q) + r * stride;
    for (int64_t c = 0; c < columns; ++c) {
      const int32_t v = x[c] ^ flip;
      sums[c] += v;
      squares[c] += v * v;
    }
  }
}

// Below this many elements a row's results are cheaper than a table of all 256.
constexpr int64_t kSoftmaxTable = 256;

static inline int32_t largest_byte(const uint8_t* x, int64_t size, int32_t flip) {
  uint8_t largest = 0;
  const uint8_t mask = static_cast<uint8_t>(flip);
  for (int64_t i = 0; i < size; ++i) {
    const uint8_t v = x[i] ^ mask;
    largest = v > largest ? v : largest;
  }
  return largest;
}

// to_byte(exps[i] * factor) in loops that compilers vectorize. Results are bounded before they are
// narrowed, by 16 bits at a time.
static inline void softmax_bytes(const int32_t* exps, int64_t size, float factor, int32_t out_zero,
                                 int32_t lo, uint8_t* out) {
  const float low = static_cast<float>(lo - out_zero),
              high = static_cast<float>(lo + 255 - out_zero);
  for (int64_t i = 0; i < size; ++i) {
    const float t = clamp_float(static_cast<float>(exps[i]) * factor, low, high);
    out[i] = static_cast<uint8_t>(static_cast<int32_t>(round_half_even(t)) + out_zero);
  }
}

static void softmax_rows(const SoftmaxArgs* args) {
  const SoftmaxArgs p = *args;
  const int32_t lo = p.out_signed ? -128 : 0;
  const uint8_t mask = static_cast<uint8_t>(p.in_flip);
  for (int64_t r = 0; r < p.rows; ++r) {
    const uint8_t* in = static_cast<const uint8_t*>(p.in) + r * p.in_stride;
    uint8_t* out = static_cast<uint8_t*>(p.out) + r * p.out_stride;
    const uint8_t largest = static_cast<uint8_t>(largest_byte(in, p.size, p.in_flip));
    int64_t sums[4] = {};
    if (p.size < kSoftmaxTable) {
      int32_t row[kSoftmaxTable];
      int64_t i = 0;
      for (; i + 4 <= p.size; i += 4) {
        for (int j = 0; j < 4; ++j) sums[j] += row[i + j] = p.exps[largest - (in[i + j] ^ mask)];
      }
      for (; i < p.size; ++i) sums[0] += row[i] = p.exps[largest - (in[i] ^ mask)];
      const double sum = static_cast<double>(sums[0] + sums[1] + sums[2] + sums[3]);
      softmax_bytes(row, p.size, static_cast<float>(p.inv_scale / sum), p.out_zero, lo, out);
      continue;
    }
    for (int64_t i = 0; i < p.size; ++i) out[i] = static_cast<uint8_t>(largest - (in[i] ^ mask));
    int64_t i = 0;
    for (; i + 4 <= p.size; i += 4) {
      for (int j = 0; j < 4; ++j) sums[j] += p.exps[out[i + j]];
    }
    for (; i < p.size; ++i) sums[0] += p.exps[out[i]];
    const double sum = static_cast<double>(sums[0] + sums[1] + sums[2] + sums[3]);
    uint8_t table[256];
    softmax_bytes(p.exps, 256, static_cast<float>(p.inv_scale / sum), p.out_zero, lo, table);
    p.lookup(table, out, p.size, out);
  }
}

}  // namespace
}  // namespace octavo
