// Softmax with AVX-512: the vectors that softmax-inl.h computes on.
#pragma once

#include <immintrin.h>

#include "isa/vector_shared/softmax-inl.h"
#include "isa/x86_shared/largest_byte-inl.h"
#include "isa/x86_shared/normalize_avx512-inl.h"

namespace octavo {
namespace {

struct SoftmaxBytes512 : FloatBytes512 {
  SoftmaxBytes512(const float* high, const float* low)
      : high(_mm512_loadu_ps(high)), low(_mm512_loadu_ps(low)) {}

  // Of distances; vpermps takes the lower 4 bits of each.
  inline Vec exponential(Vec d) const {
    const Floats far = _mm512_permutexvar_ps(_mm512_srli_epi32(d, 4), high);
    return _mm512_cvtps_epi32(_mm512_mul_ps(far, _mm512_permutexvar_ps(d, low)));
  }
  // Bytes as dwords, in the order that pack32 and pack16 undo.
  static inline void widen(Vec v, Vec (&x)[4]) {
    unroll<4>([&](auto j) OCTAVO_INLINE {
      constexpr int kFirst = 4 * kIndex<decltype(j)>;
      const Vec from = _mm512_set4_epi32(kFirst + 3, kFirst + 2, kFirst + 1, kFirst);
      x[j] = _mm512_maskz_shuffle_epi8(0x1111111111111111ull, v, from);
    });
  }
  inline OCTAVO_INLINE void exponentials(Vec distances, Vec (&exps)[4]) const {
    widen(distances, exps);
    unroll<4>([&](auto j) OCTAVO_INLINE { exps[j] = exponential(exps[j]); });
  }
  static inline uint8_t largest(Vec v) {
    const __m256i half =
        _mm256_max_epu8(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    return largest_of_128(
        _mm_max_epu8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
  }
  static inline Vec sub8(Vec a, Vec b) { return _mm512_sub_epi8(a, b); }
  static inline Vec either(Vec a, Vec b) { return _mm512_or_si512(a, b); }
  // 64-bit sums of 32-bit values.
  static inline Vec accumulate(Vec sum, Vec v) {
    const Vec low = _mm512_and_si512(v, _mm512_set1_epi64(0xffffffff)),
              high = _mm512_srli_epi64(v, 32);
    return _mm512_add_epi64(sum, _mm512_add_epi64(low, high));
  }

  Floats high, low;
};

}  // namespace
}  // namespace octavo
