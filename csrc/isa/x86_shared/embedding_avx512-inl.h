// Rows of embedding tables with AVX-512.
#pragma once

#include <immintrin.h>

#include "isa/x86_shared/embedding-inl.h"
#include "isa/x86_shared/epilogue_avx512-inl.h"

namespace octavo {
namespace {

// 16 floats. What ends in _part is about the first n of them, 0 < n < 16; the others are 0.
struct Floats512 {
  using Vec = __m512;
  static constexpr int kFloats = 16;

  static inline Vec set(float x) { return _mm512_set1_ps(x); }
  static inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static inline Vec load_part(const float* p, int n) { return load_floats(p, lane_mask(n)); }
  static inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
  static inline void store_part(float* p, int n, Vec v) {
    _mm512_mask_storeu_ps(p, lane_mask(n), v);
  }

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
