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
  // Where one is NaN: the second.
  static inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
  static inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  // 2 to the power of the integer in the lowest 9 bits.
  static inline Vec power_of_two(Vec v) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(v), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f800000)));
  }
};

}  // namespace
}  // namespace octavo
