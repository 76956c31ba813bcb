// Rows of embedding tables with AVX-512.
#pragma once

#include <immintrin.h>

#include "isa/x86_shared/embedding-inl.h"
#include "isa/x86_shared/epilogue_avx512-inl.h"
#include "isa/x86_shared/floats_avx512-inl.h"

namespace octavo {
namespace {

// Floats that come from the integers of a row. What ends in _part is about the first n of them,
// 0 < n < kCount; the others are 0.
struct TableFloats512 : Floats512 {
  static inline Vec bytes(const uint8_t* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static inline Vec bytes_part(const uint8_t* p, int n) {
    return widen(_mm_maskz_loadu_epi8(lane_mask(n), p));
  }
  static inline Vec nibbles(const uint8_t* p) {
    return spread(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static inline Vec nibbles_part(const uint8_t* p, int n) {
    return spread(_mm_maskz_loadu_epi8(lane_mask((n + 1) / 2), p));
  }

 private:
  static inline Vec widen(__m128i v) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(v)); }
  // 16 nibbles: each half of the lanes gets 4 bytes, shifts its nibble down, and looks up the float
  // by the lowest 4 bits, which is all of an index that vpermps reads.
  static inline Vec spread(__m128i v) {
    const __m512i half = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m512i shift =
        _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    const Vec value = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i dwords = _mm512_permutexvar_epi32(half, _mm512_castsi128_si512(v));
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(dwords, shift), value);
  }
};

}  // namespace
}  // namespace octavo
