// Rows of embedding tables with AVX2.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "isa/x86_shared/embedding-inl.h"
#include "isa/x86_shared/epilogue_avx2-inl.h"
#include "isa/x86_shared/floats_avx2-inl.h"

namespace octavo {
namespace {

// Floats that come from the integers of a row. What ends in _part is about the first n of them,
// 0 < n < kCount; the others are 0. Nibbles may come in another order, which in_order() undoes.
struct TableFloats256 : Floats256 {
  static inline Vec bytes(const uint8_t* p) {
    return widen(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static inline Vec bytes_part(const uint8_t* p, int n) { return widen(load_bytes8(p, n)); }
  static inline Vec nibbles(const uint8_t* p) {
    int32_t dword;
    std::memcpy(&dword, p, 4);
    return spread(dword);
  }
  static inline Vec nibbles_part(const uint8_t* p, int n) {
    uint32_t dword = 0;
    for (int i = 0; i < (n + 1) / 2; ++i) dword |= uint32_t{p[i]} << 8 * i;
    return spread(static_cast<int32_t>(dword));
  }

  static inline Vec in_order(Vec v) { return v; }
  static inline Vec out_of_order(Vec v) { return v; }

 private:
  static inline Vec widen(__m128i v) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v)); }
  // 8 nibbles.
  static inline Vec spread(int32_t dword) {
    const __m256i shift = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256i shifted = _mm256_srlv_epi32(_mm256_set1_epi32(dword), shift);
    return _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(15)));
  }
};

}  // namespace
}  // namespace octavo
