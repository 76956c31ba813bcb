// Rows of embedding tables with AVX2.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "isa/x86_shared/embedding-inl.h"
#include "isa/x86_shared/epilogue_avx2-inl.h"

namespace octavo {
namespace {

// 8 floats. What ends in _part is about the first n of them, 0 < n < 8; the others are 0.
struct Floats256 {
  using Vec = __m256;
  static constexpr int kFloats = 8;

  static inline Vec set(float x) { return _mm256_set1_ps(x); }
  static inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
  static inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static inline Vec load_part(const float* p, int n) { return load_floats8(p, lane_mask8(n)); }
  static inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
  static inline void store_part(float* p, int n, Vec v) {
    _mm256_maskstore_ps(p, lane_mask8(n), v);
  }

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
