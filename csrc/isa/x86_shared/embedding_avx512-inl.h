// Rows of embedding tables with AVX-512.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "isa/vector_shared/embedding-inl.h"
#include "isa/x86_shared/epilogue_avx512-inl.h"
#include "isa/x86_shared/floats_avx512-inl.h"

namespace octavo {
namespace {

struct TableBytes512 : Floats512 {
  using Copied = TableBytes512;
  static constexpr int kMost = 8, kBytes = 16;

  static inline Vec row(const uint8_t* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static inline Vec row_part(const uint8_t* p, int n) {
    return widen(_mm_maskz_loadu_epi8(lane_mask(n), p));
  }

 private:
  static inline Vec widen(__m128i v) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(v)); }
};

// Even columns are in the lower half of a vector, odd ones in the upper.
struct TableNibbles512 : Floats512 {
  using Copied = TableNibbles512;
  static constexpr int kMost = 8, kBytes = 8;

  static inline Vec row(const uint8_t* p) {
    int64_t qword;
    std::memcpy(&qword, p, 8);
    return spread(_mm512_set1_epi64(qword));
  }
  static inline Vec row_part(const uint8_t* p, int n) {
    return spread(_mm512_broadcastq_epi64(_mm_maskz_loadu_epi8(lane_mask((n + 1) / 2), p)));
  }
  static inline Vec load(const float* p, int count) {
    const __m512i lane = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    return _mm512_permutexvar_ps(lane, Floats512::load(p, count));
  }
  static inline void store(float* p, Vec v, int count) {
    const __m512i lane = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    Floats512::store(p, _mm512_permutexvar_ps(lane, v), count);
  }

 private:
  // The 16 nibbles of 8 bytes that all lanes hold: even lanes shift one of the lower 8 down, odd
  // lanes one of the upper 8, and look the float up by the lowest 4 bits, which is all of an index
  // that vpermps reads.
  static inline Vec spread(__m512i v) {
    const __m512i shift =
        _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
    const Vec value = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(v, shift), value);
  }
};

}  // namespace
}  // namespace octavo
