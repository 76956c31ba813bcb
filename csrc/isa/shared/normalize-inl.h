// Look-up tables, linear functions by column, moments and softmax in plain C++. Each ISA folder
// compiles its own copy; softmax_rows is what all of them use.
#pragma once

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
static inline float affine_value(float q, const AffineArgs& p, float scale, float shift) {
  if (kKind == AffineKind::kScaleShift) return q * scale + shift;
  const float x = q - p.center;
  if (kKind == AffineKind::kPrelu) return x >= 0.0f ? x * p.factor : x * scale;
  return x * p.factor * scale + shift;
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
      const float t = affine_value<kKind>(static_cast<float>(in[c]), p, p.scale[at], shift);
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
constexpr int64_t kSoftmaxTable = 192;

static inline int32_t largest_byte(const uint8_t* x, int64_t size, int32_t flip) {
  uint8_t largest = 0;
  const uint8_t mask = static_cast<uint8_t>(flip);
  for (int64_t i = 0; i < size; ++i) {
    const uint8_t v = x[i] ^ mask;
    largest = v > largest ? v : largest;
  }
  return largest;
}

// Sum of exps[largest - v]; four at a time, as the sum is exact in any order.
static inline int64_t sum_of_exps(const uint8_t* x, int64_t size, int32_t flip,
                                  const int32_t* from_largest) {
  int64_t sums[4] = {};
  int64_t i = 0;
  for (; i + 4 <= size; i += 4) {
    for (int j = 0; j < 4; ++j) sums[j] += from_largest[-(x[i + j] ^ flip)];
  }
  for (; i < size; ++i) sums[0] += from_largest[-(x[i] ^ flip)];
  return sums[0] + sums[1] + sums[2] + sums[3];
}

template <void (*kLookup)(const uint8_t*, const void*, int64_t, void*)>
void softmax_rows(const SoftmaxArgs* args) {
  const SoftmaxArgs p = *args;
  const int32_t lo = p.out_signed ? -128 : 0, hi = lo + 255;
  for (int64_t r = 0; r < p.rows; ++r) {
    const uint8_t* in = static_cast<const uint8_t*>(p.in) + r * p.in_stride;
    uint8_t* out = static_cast<uint8_t*>(p.out) + r * p.out_stride;
    const int32_t largest = largest_byte(in, p.size, p.in_flip);
    const int32_t* from_largest = p.exps + largest;
    const int64_t sum = sum_of_exps(in, p.size, p.in_flip, from_largest);
    const float factor = static_cast<float>(p.inv_scale / static_cast<double>(sum));
    const auto result = [&](int32_t distance) {
      return to_byte(static_cast<float>(p.exps[distance]) * factor, p.out_zero, lo, hi);
    };
    if (p.size < kSoftmaxTable) {
      for (int64_t i = 0; i < p.size; ++i) out[i] = result(largest - (in[i] ^ p.in_flip));
      continue;
    }
    uint8_t by_distance[256], table[256];
    for (int32_t d = 0; d < 256; ++d) by_distance[d] = result(d);
    for (int32_t v = 0; v < 256; ++v) table[v] = by_distance[v <= largest ? largest - v : 0];
    if (p.in_flip) {  // the table is indexed by bytes as they are stored
      for (int32_t v = 0; v < 128; ++v) {
        const uint8_t low = table[v];
        table[v] = table[v + 128];
        table[v + 128] = low;
      }
    }
    kLookup(table, in, p.size, out);
  }
}

}  // namespace
}  // namespace octavo
