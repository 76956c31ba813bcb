// Pooling and interpolation with AVX2: the vectors that pooling-inl.h and
// interpolate-inl.h compute on.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "isa/shared/part_word-inl.h"
#include "isa/vector_shared/interpolate-inl.h"

namespace octavo {
namespace {

// 32 bytes. Unpacking and packing work within 128-bit lanes.
struct Bytes256 {
  using Vec = __m256i;
  using Floats = __m256;
  static constexpr int kBytes = 32;
  static constexpr bool kAddsWide = false;

  static inline Vec load(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static inline void store(void* p, Vec v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  // The first n bytes, 0 < n < 32; the others are 0.
  static inline Vec load_part(const void* p, int n) {
    const uint8_t* bytes = static_cast<const uint8_t*>(p);
    if (n < 16) return _mm256_zextsi128_si256(load_part16(bytes, n));
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    if (n == 16) return _mm256_zextsi128_si256(low);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), load_part16(bytes + 16, n - 16), 1);
  }
  static inline void store_part(void* p, Vec v, int n) {
    alignas(32) uint8_t bytes[32];
    _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), v);
    std::memcpy(p, bytes, static_cast<size_t>(n));
  }

  static inline Vec zero() { return _mm256_setzero_si256(); }
  static inline Vec set8(int x) { return _mm256_set1_epi8(static_cast<char>(x)); }
  static inline Vec set16(int x) { return _mm256_set1_epi16(static_cast<int16_t>(x)); }
  static inline Vec set32(int32_t x) { return _mm256_set1_epi32(x); }
  static inline Vec max_u8(Vec a, Vec b) { return _mm256_max_epu8(a, b); }
  static inline Vec max_s8(Vec a, Vec b) { return _mm256_max_epi8(a, b); }
  static inline Vec flip(Vec a, Vec b) { return _mm256_xor_si256(a, b); }
  static inline Vec unpack_lo8(Vec a, Vec b) { return _mm256_unpacklo_epi8(a, b); }
  static inline Vec unpack_hi8(Vec a, Vec b) { return _mm256_unpackhi_epi8(a, b); }
  static inline Vec unpack_lo16(Vec a, Vec b) { return _mm256_unpacklo_epi16(a, b); }
  static inline Vec unpack_hi16(Vec a, Vec b) { return _mm256_unpackhi_epi16(a, b); }
  static inline Vec add16(Vec a, Vec b) { return _mm256_add_epi16(a, b); }
  static inline Vec adds16(Vec a, Vec b) { return _mm256_adds_epi16(a, b); }
  static inline Vec add32(Vec a, Vec b) { return _mm256_add_epi32(a, b); }
  static inline Vec sub32(Vec a, Vec b) { return _mm256_sub_epi32(a, b); }
  static inline Vec shift7(Vec a) { return _mm256_srai_epi16(a, 7); }
  static inline Vec both(Vec a, Vec b) { return _mm256_and_si256(a, b); }
  static inline Vec sign16(Vec a) { return _mm256_srai_epi16(a, 15); }
  static inline Vec madd16(Vec a, Vec b) { return _mm256_madd_epi16(a, b); }
  static inline Vec maddu8s8(Vec a, Vec b) { return _mm256_maddubs_epi16(a, b); }
  static inline Vec pack32(Vec a, Vec b) { return _mm256_packs_epi32(a, b); }
  static inline Vec pack16_u8(Vec a, Vec b) { return _mm256_packus_epi16(a, b); }
  static inline Vec pack16_s8(Vec a, Vec b) { return _mm256_packs_epi16(a, b); }

  static inline Floats set_float(float x) { return _mm256_set1_ps(x); }
  static inline Floats to_float(Vec v) { return _mm256_cvtepi32_ps(v); }
  static inline Vec round(Floats x) { return _mm256_cvtps_epi32(x); }
  static inline Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }

 private:
  // 0 < n < 16.
  static inline __m128i load_part16(const uint8_t* p, int n) {
    if (n <= 8) return _mm_cvtsi64_si128(static_cast<int64_t>(load_part_word(p, n)));
    const int64_t low = static_cast<int64_t>(load_word<uint64_t>(p));
    const uint64_t high = load_word<uint64_t>(p + n - 8) >> (8 * (16 - n));
    return _mm_set_epi64x(static_cast<int64_t>(high), low);
  }
};

}  // namespace
}  // namespace octavo
