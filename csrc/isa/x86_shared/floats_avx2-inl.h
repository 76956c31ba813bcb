// 8 floats under the names that kernels for both widths use.
#pragma once

#include <immintrin.h>

#include "isa/x86_shared/epilogue_avx2-inl.h"

namespace octavo {
namespace {

struct Floats256 {
  using Vec = __m256;
  static constexpr int kCount = 8;

  static inline Vec set(float x) { return _mm256_set1_ps(x); }
  // The first `count` (1 .. kCount); the others load as zeros.
  static inline Vec load(const float* p, int count) {
    return count == kCount ? _mm256_loadu_ps(p) : load_floats8(p, lane_mask8(count));
  }
  static inline void store(float* p, Vec v, int count) {
    if (count == kCount) {
      _mm256_storeu_ps(p, v);
    } else {
      _mm256_maskstore_ps(p, lane_mask8(count), v);
    }
  }
  static inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
  static inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
  // Where one is NaN: the second.
  static inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
  static inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
  // 2 to the power of the integer in the lowest 9 bits.
  static inline Vec power_of_two(Vec v) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(v), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f800000)));
  }
};

}  // namespace
}  // namespace octavo
