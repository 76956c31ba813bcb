// Quantize and dequantize with AVX-512; the rest is isa/shared/elementwise-inl.h compiled for
// AVX-512.
#pragma once

#include <immintrin.h>

#include "isa/shared/elementwise-inl.h"
#include "isa/x86_shared/epilogue_avx512-inl.h"

namespace octavo {
namespace {

static inline __m128i quantize_lanes(__m512 x, __m512 inv_scale, __m512 lo, __m512 hi,
                                     __m512i zero) {
  x = _mm512_mul_ps(x, inv_scale);
  x = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q),
                          x);  // NaN becomes 0, so the zero point
  x = _mm512_min_ps(_mm512_max_ps(x, lo), hi);
  return _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(x), zero));
}

// The same for uint8 and int8: the low byte of an int32 in range.
static void quantize_avx512(const float* x, int64_t size, float inv_scale, int32_t zero, int32_t lo,
                            int32_t hi, void* q) {
  uint8_t* out = static_cast<uint8_t*>(q);
  const __m512 inv = _mm512_set1_ps(inv_scale);
  const __m512 vlo = _mm512_set1_ps(static_cast<float>(lo - zero)),
               vhi = _mm512_set1_ps(static_cast<float>(hi - zero));
  const __m512i vzero = _mm512_set1_epi32(zero);
  int64_t i = 0;
  for (; i + 64 <= size; i += 64) {
    for (int j = 0; j < 64; j += 16) {
      const __m128i lanes = quantize_lanes(_mm512_loadu_ps(x + i + j), inv, vlo, vhi, vzero);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i + j), lanes);
    }
  }
  for (; i < size; i += 16) {
    const __mmask16 mask = lane_mask(static_cast<int>(size - i < 16 ? size - i : 16));
    _mm_mask_storeu_epi8(out + i, mask,
                         quantize_lanes(load_floats(x + i, mask), inv, vlo, vhi, vzero));
  }
}

template <bool kSigned>
void dequantize_avx512(const void* q, int64_t size, float scale, int32_t zero, float* x) {
  const uint8_t* in = static_cast<const uint8_t*>(q);
  const __m512 vscale = _mm512_set1_ps(scale);
  const __m512i vzero = _mm512_set1_epi32(zero);
  const auto values = [&](__m128i bytes) {
    const __m512i wide = kSigned ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes);
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(wide, vzero)), vscale);
  };
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) {
    _mm512_storeu_ps(x + i, values(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
  }
  if (i < size) {
    const __mmask16 mask = lane_mask(static_cast<int>(size - i));
    _mm512_mask_storeu_ps(x + i, mask, values(_mm_maskz_loadu_epi8(mask, in + i)));
  }
}

static void range_avx512(const float* x, int64_t size, FloatRange* range) {
  __m512 lo[2], hi[2];
  __mmask16 nan = 0;
  for (int j = 0; j < 2; ++j) {
    lo[j] = _mm512_set1_ps(range->lo);
    hi[j] = _mm512_set1_ps(range->hi);
  }
  // The value comes first: where it is NaN or compares equal, the bound stays.
  const auto extend = [&](__m512 v, int j) {
    lo[j] = _mm512_min_ps(v, lo[j]);
    hi[j] = _mm512_max_ps(v, hi[j]);
    nan = static_cast<__mmask16>(nan | _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q));
  };
  int64_t i = 0;
  for (; i + 32 <= size; i += 32) {
    extend(_mm512_loadu_ps(x + i), 0);
    extend(_mm512_loadu_ps(x + i + 16), 1);
  }
  for (; i < size; i += 16)
    extend(load_floats(x + i, lane_mask(static_cast<int>(size - i < 16 ? size - i : 16))), 0);
  alignas(64) float low[16], high[16];
  _mm512_store_ps(low, _mm512_min_ps(lo[0], lo[1]));
  _mm512_store_ps(high, _mm512_max_ps(hi[0], hi[1]));
  for (int j = 0; j < 16; ++j) {
    range->lo = low[j] < range->lo ? low[j] : range->lo;
    range->hi = high[j] > range->hi ? high[j] : range->hi;
  }
  if (nan) range->lo = range->hi = bits_float(0x7fc00000);
}

template <bool kF16>
void to_float_avx512(const void* halves, int64_t size, float* x) {
  const uint16_t* in = static_cast<const uint16_t*>(halves);
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 mask = lane_mask(static_cast<int>(size - i < 16 ? size - i : 16));
    const __m256i v = _mm256_maskz_loadu_epi16(mask, in + i);
    const __m512 wide = kF16 ? _mm512_cvtph_ps(v)
                             : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
    _mm512_mask_storeu_ps(x + i, mask, wide);
  }
}

constexpr ElementwiseFns elementwise_avx512() {
  ElementwiseFns fns = portable_elementwise();
  fns.quantize[0] = fns.quantize[1] = quantize_avx512;
  fns.dequantize[0] = dequantize_avx512<false>;
  fns.dequantize[1] = dequantize_avx512<true>;
  fns.range = range_avx512;
  fns.to_float[0] = to_float_avx512<false>;
  fns.to_float[1] = to_float_avx512<true>;
  return fns;
}

}  // namespace
}  // namespace octavo
