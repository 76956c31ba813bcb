// Softmax with AVX2: the vectors that softmax-inl.h computes on.
#pragma once

#include <immintrin.h>

#include "isa/vector_shared/softmax-inl.h"
#include "isa/x86_shared/largest_byte-inl.h"
#include "isa/x86_shared/normalize_avx2-inl.h"

namespace octavo {
namespace {

struct SoftmaxBytes256 : FloatBytes256 {
  SoftmaxBytes256(const float* high, const float* low)
      : high{_mm256_loadu_ps(high), _mm256_loadu_ps(high + 8)},
        low{_mm256_loadu_ps(low), _mm256_loadu_ps(low + 8)} {}

  // Entry x of 16, x in the lower 4 bits; the bit above vpermps's three, in the sign of `upper`,
  // chooses the half.
  static inline Floats entry(const Floats (&of)[2], Vec x, Vec upper) {
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(of[0], x), _mm256_permutevar8x32_ps(of[1], x),
                            _mm256_castsi256_ps(upper));
  }
  inline Vec exponential(Vec d) const {
    const Floats near = entry(low, d, _mm256_slli_epi32(d, 28));
    const Floats far = entry(high, _mm256_srli_epi32(d, 4), _mm256_slli_epi32(d, 24));
    return _mm256_cvtps_epi32(_mm256_mul_ps(far, near));
  }
  // Bytes as dwords, in the order that pack32 and pack16 undo.
  static inline void widen(Vec v, Vec (&x)[4]) {
    const Vec none = _mm256_setzero_si256();
    const Vec even = _mm256_unpacklo_epi8(v, none), odd = _mm256_unpackhi_epi8(v, none);
    x[0] = _mm256_unpacklo_epi16(even, none);
    x[1] = _mm256_unpackhi_epi16(even, none);
    x[2] = _mm256_unpacklo_epi16(odd, none);
    x[3] = _mm256_unpackhi_epi16(odd, none);
  }
  inline OCTAVO_INLINE void exponentials(Vec distances, Vec (&exps)[4]) const {
    widen(distances, exps);
    unroll<4>([&](auto j) OCTAVO_INLINE { exps[j] = exponential(exps[j]); });
  }
  static inline uint8_t largest(Vec v) {
    return largest_of_128(_mm_max_epu8(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
  }
  static inline Vec sub8(Vec a, Vec b) { return _mm256_sub_epi8(a, b); }
  static inline Vec either(Vec a, Vec b) { return _mm256_or_si256(a, b); }
  // 64-bit sums of 32-bit values.
  static inline Vec accumulate(Vec sum, Vec v) {
    const Vec low = _mm256_and_si256(v, _mm256_set1_epi64x(0xffffffff)),
              high = _mm256_srli_epi64(v, 32);
    return _mm256_add_epi64(sum, _mm256_add_epi64(low, high));
  }

  Floats high[2], low[2];
};

}  // namespace
}  // namespace octavo
