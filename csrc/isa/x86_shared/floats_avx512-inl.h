// 16 floats under the names that kernels for both widths use.
#pragma once

#include <immintrin.h>

#include "isa/x86_shared/epilogue_avx512-inl.h"

namespace octavo {
namespace {

struct Floats512 {
  using Vec = __m512;
  static constexpr int kCount = 16;

  static inline Vec set(float x) { return _mm512_set1_ps(x); }
  // The first `count` (1 .. kCount); the others load as zeros.
  static inline Vec load(const float* p, int count) { return load_floats(p, lane_mask(count)); }
  static inline void store(float* p, Vec v, int count) {
    _mm512_mask_storeu_ps(p, lane_mask(count), v);
  }
  static inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
  // a * b + c, rounded once.
  static inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  // Where one is NaN: the second.
  static inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
  static inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static inline Vec round(Vec v) {  // half to even
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // The first `count` bytes as floats.
  static inline Vec from_bytes(const uint8_t* p, int count) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lane_mask(count), p)));
  }
  // 4 * kCount bytes: 1 where a equals b, else 0.
  static inline void store_equal(uint8_t* p, const Vec (&a)[4], const Vec (&b)[4]) {
    for (int j = 0; j < 4; ++j) store_equal(p + j * kCount, a[j], b[j], kCount);
  }
  // The same for the first `count` lanes of one vector.
  static inline void store_equal(uint8_t* p, Vec a, Vec b, int count) {
    const __mmask16 equal = _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
    _mm_mask_storeu_epi8(p, lane_mask(count), _mm_maskz_set1_epi8(equal, 1));
  }
  // 2 to the power of the integer in the lowest 9 bits.
  static inline Vec power_of_two(Vec v) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(v), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f800000)));
  }
};

}  // namespace
}  // namespace octavo
