// Rows of embedding tables with AVX2.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "isa/shared/part_word-inl.h"
#include "isa/vector_shared/embedding-inl.h"
#include "isa/x86_shared/epilogue_avx2-inl.h"
#include "isa/x86_shared/floats_avx2-inl.h"

namespace octavo {
namespace {

// The first n <= 8 bytes, n > 0.
static inline __m128i load_first_bytes(const uint8_t* p, int n) {
  return _mm_cvtsi64_si128(static_cast<int64_t>(load_part_word(p, n)));
}

struct TableBytes256 : Floats256 {
  using Copied = TableBytes256;
  static constexpr int kMost = 16, kBytes = 8;

  static inline Vec row(const uint8_t* p) {
    return widen(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static inline Vec row_part(const uint8_t* p, int n) { return widen(load_first_bytes(p, n)); }

 private:
  static inline Vec widen(__m128i v) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v)); }
};

// 8 columns, without shuffles.
struct OrderedNibbles256 : Floats256 {
  static constexpr int kBytes = 4;

  static inline Vec row(const uint8_t* p) {
    int32_t dword;
    std::memcpy(&dword, p, 4);
    return spread(dword);
  }
  static inline Vec row_part(const uint8_t* p, int n) {
    return spread(_mm_cvtsi128_si32(load_first_bytes(p, (n + 1) / 2)));
  }

 private:
  static inline Vec spread(int32_t dword) {
    const __m256i shift = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256i shifted = _mm256_srlv_epi32(_mm256_set1_epi32(dword), shift);
    return _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(15)));
  }
};

// 16 columns in two registers, which takes less to load, and more to store.
struct TableNibbles256 {
  using Copied = OrderedNibbles256;
  static constexpr int kMost = 8, kBytes = 8;
  using F = Floats256;
  struct Vec {
    __m256 even, odd;  // columns
  };
  static constexpr int kCount = 16;

  static inline Vec set(float x) { return {F::set(x), F::set(x)}; }
  static inline Vec load(const float* p, int count) {
    const __m256 a = F::load(p, count < 8 ? count : 8);
    const __m256 b = count > 8 ? F::load(p + 8, count - 8) : F::set(0.0f);
    const __m256 low = _mm256_permute2f128_ps(a, b, 0x20),
                 high = _mm256_permute2f128_ps(a, b, 0x31);
    return {_mm256_shuffle_ps(low, high, 0x88), _mm256_shuffle_ps(low, high, 0xdd)};
  }
  static inline void store(float* p, Vec v, int count) {
    const __m256 low = _mm256_unpacklo_ps(v.even, v.odd), high = _mm256_unpackhi_ps(v.even, v.odd);
    F::store(p, _mm256_permute2f128_ps(low, high, 0x20), count < 8 ? count : 8);
    if (count > 8) F::store(p + 8, _mm256_permute2f128_ps(low, high, 0x31), count - 8);
  }
  static inline Vec add(Vec a, Vec b) { return {F::add(a.even, b.even), F::add(a.odd, b.odd)}; }
  static inline Vec mul(Vec a, Vec b) { return {F::mul(a.even, b.even), F::mul(a.odd, b.odd)}; }
  static inline Vec max(Vec a, Vec b) { return {F::max(a.even, b.even), F::max(a.odd, b.odd)}; }
  static inline Vec fma(Vec a, Vec b, Vec c) {
    return {F::fma(a.even, b.even, c.even), F::fma(a.odd, b.odd, c.odd)};
  }
  static inline Vec row(const uint8_t* p) {
    return spread(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static inline Vec row_part(const uint8_t* p, int n) {
    return spread(load_first_bytes(p, (n + 1) / 2));
  }

 private:
  static inline Vec spread(__m128i v) {
    const __m256i pairs = _mm256_cvtepu8_epi32(v);
    return {_mm256_cvtepi32_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(15))),
            _mm256_cvtepi32_ps(_mm256_srli_epi32(pairs, 4))};
  }
};

}  // namespace
}  // namespace octavo
