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
  // a * b + c, rounded once.
  static inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  // Where one is NaN: the second.
  static inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
  static inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
  static inline Vec round(Vec v) {  // half to even
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // The first `count` bytes as floats.
  static inline Vec from_bytes(const uint8_t* p, int count) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_bytes8(p, count)));
  }
  // 4 * kCount bytes: 1 where a equals b, else 0.
  static inline void store_equal(uint8_t* p, const Vec (&a)[4], const Vec (&b)[4]) {
    const __m256i low = _mm256_packs_epi32(equal(a[0], b[0]), equal(a[1], b[1]));
    const __m256i high = _mm256_packs_epi32(equal(a[2], b[2]), equal(a[3], b[3]));
    const __m256i bytes = _mm256_and_si256(_mm256_packs_epi16(low, high), _mm256_set1_epi8(1));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permutevar8x32_epi32(bytes, order));
  }
  // The same for the first `count` lanes of one vector.
  static inline void store_equal(uint8_t* p, Vec a, Vec b, int count) {
    const int64_t bytes = low_bytes(_mm256_and_si256(equal(a, b), _mm256_set1_epi32(1)));
    std::memcpy(p, &bytes, static_cast<size_t>(count));
  }
  static inline __m256i equal(Vec a, Vec b) {
    return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_EQ_OQ));
  }
  // 2 to the power of the integer in the lowest 9 bits.
  static inline Vec power_of_two(Vec v) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(v), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f800000)));
  }
};

}  // namespace
}  // namespace octavo
