// Quantize and dequantize with AVX2; the rest is isa/shared/elementwise-inl.h compiled for AVX2.
#pragma once

#include <immintrin.h>

#include "isa/shared/elementwise-inl.h"
#include "isa/x86_shared/epilogue_avx2-inl.h"

namespace octavo {
namespace {

static inline int64_t quantize_lanes8(__m256 x, __m256 inv_scale, __m256 lo, __m256 hi,
                                      __m256i zero) {
  x = _mm256_mul_ps(x, inv_scale);
  x = _mm256_and_ps(x, _mm256_cmp_ps(x, x, _CMP_ORD_Q));  // NaN becomes 0, so the zero point
  x = _mm256_min_ps(_mm256_max_ps(x, lo), hi);
  return low_bytes(_mm256_add_epi32(_mm256_cvtps_epi32(x), zero));
}

// The same for uint8 and int8: the low byte of an int32 in range.
static void quantize_avx2(const float* x, int64_t size, float inv_scale, int32_t zero, int32_t lo,
                          int32_t hi, void* q) {
  uint8_t* out = static_cast<uint8_t*>(q);
  const __m256 inv = _mm256_set1_ps(inv_scale);
  const __m256 vlo = _mm256_set1_ps(static_cast<float>(lo - zero)),
               vhi = _mm256_set1_ps(static_cast<float>(hi - zero));
  const __m256i vzero = _mm256_set1_epi32(zero);
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    const int64_t bytes = quantize_lanes8(_mm256_loadu_ps(x + i), inv, vlo, vhi, vzero);
    std::memcpy(out + i, &bytes, 8);
  }
  if (i < size) {
    const int lanes = static_cast<int>(size - i);
    const int64_t bytes =
        quantize_lanes8(load_floats8(x + i, lane_mask8(lanes)), inv, vlo, vhi, vzero);
    std::memcpy(out + i, &bytes, lanes);
  }
}

template <bool kSigned>
void dequantize_avx2(const void* q, int64_t size, float scale, int32_t zero, float* x) {
  const uint8_t* in = static_cast<const uint8_t*>(q);
  const __m256 vscale = _mm256_set1_ps(scale);
  const __m256i vzero = _mm256_set1_epi32(zero);
  const auto values = [&](__m128i bytes) {
    const __m256i wide = kSigned ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(wide, vzero)), vscale);
  };
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) _mm256_storeu_ps(x + i, values(load_bytes8(in + i, 8)));
  if (i < size) {
    const int lanes = static_cast<int>(size - i);
    _mm256_maskstore_ps(x + i, lane_mask8(lanes), values(load_bytes8(in + i, lanes)));
  }
}

static void range_avx2(const float* x, int64_t size, FloatRange* range) {
  __m256 lo[2], hi[2], nan = _mm256_setzero_ps();
  for (int j = 0; j < 2; ++j) {
    lo[j] = _mm256_set1_ps(range->lo);
    hi[j] = _mm256_set1_ps(range->hi);
  }
  // The value comes first: where it is NaN or compares equal, the bound stays.
  const auto extend = [&](__m256 v, int j) {
    lo[j] = _mm256_min_ps(v, lo[j]);
    hi[j] = _mm256_max_ps(v, hi[j]);
    nan = _mm256_or_ps(nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  };
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) {
    extend(_mm256_loadu_ps(x + i), 0);
    extend(_mm256_loadu_ps(x + i + 8), 1);
  }
  for (; i < size; i += 8) {
    const int lanes = static_cast<int>(size - i < 8 ? size - i : 8);
    extend(load_floats8(x + i, lane_mask8(lanes)), 0);
  }
  alignas(32) float low[8], high[8];
  _mm256_store_ps(low, _mm256_min_ps(lo[0], lo[1]));
  _mm256_store_ps(high, _mm256_max_ps(hi[0], hi[1]));
  for (int j = 0; j < 8; ++j) {
    range->lo = low[j] < range->lo ? low[j] : range->lo;
    range->hi = high[j] > range->hi ? high[j] : range->hi;
  }
  if (_mm256_movemask_ps(nan)) range->lo = range->hi = bits_float(0x7fc00000);
}

template <bool kF16>
void to_float_avx2(const void* halves, int64_t size, float* x) {
  const uint16_t* in = static_cast<const uint16_t*>(halves);
  const auto convert = [](__m128i v) {
    if constexpr (kF16) {
      return _mm256_cvtph_ps(v);
    } else {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
    }
  };
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i));
    _mm256_storeu_ps(x + i, convert(v));
  }
  if (i < size) {
    alignas(16) uint16_t tail[8] = {};
    const int lanes = static_cast<int>(size - i);
    std::memcpy(tail, in + i, static_cast<size_t>(lanes) * 2);
    const __m256 v = convert(_mm_load_si128(reinterpret_cast<const __m128i*>(tail)));
    _mm256_maskstore_ps(x + i, lane_mask8(lanes), v);
  }
}

constexpr ElementwiseFns elementwise_avx2() {
  ElementwiseFns fns = portable_elementwise();
  fns.quantize[0] = fns.quantize[1] = quantize_avx2;
  fns.dequantize[0] = dequantize_avx2<false>;
  fns.dequantize[1] = dequantize_avx2<true>;
  fns.range = range_avx2;
  fns.to_float[0] = to_float_avx2<false>;
  fns.to_float[1] = to_float_avx2<true>;
  return fns;
}

}  // namespace
}  // namespace octavo
