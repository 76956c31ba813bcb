// Pooling and interpolation with AVX-512: the vectors that pooling-inl.h and
// interpolate-inl.h compute on.
#pragma once

#include <immintrin.h>

#include "isa/vector_shared/interpolate-inl.h"

namespace octavo {
namespace {

// 64 bytes. Unpacking and packing work within 128-bit lanes.
struct Bytes512 {
  using Vec = __m512i;
  using Floats = __m512;
  static constexpr int kBytes = 64;
  static constexpr bool kAddsWide = false;

  static inline Vec load(const void* p) { return _mm512_loadu_si512(p); }
  static inline void store(void* p, Vec v) { _mm512_storeu_si512(p, v); }
  // The first n bytes, 0 < n < 64; the others are 0.
  static inline Vec load_part(const void* p, int n) { return _mm512_maskz_loadu_epi8(first(n), p); }
  static inline void store_part(void* p, Vec v, int n) { _mm512_mask_storeu_epi8(p, first(n), v); }
  static inline __mmask64 first(int n) { return (uint64_t{1} << n) - 1; }

  static inline Vec zero() { return _mm512_setzero_si512(); }
  static inline Vec set8(int x) { return _mm512_set1_epi8(static_cast<char>(x)); }
  static inline Vec set16(int x) { return _mm512_set1_epi16(static_cast<int16_t>(x)); }
  static inline Vec set32(int32_t x) { return _mm512_set1_epi32(x); }
  static inline Vec max_u8(Vec a, Vec b) { return _mm512_max_epu8(a, b); }
  static inline Vec max_s8(Vec a, Vec b) { return _mm512_max_epi8(a, b); }
  static inline Vec flip(Vec a, Vec b) { return _mm512_xor_si512(a, b); }
  static inline Vec unpack_lo8(Vec a, Vec b) { return _mm512_unpacklo_epi8(a, b); }
  static inline Vec unpack_hi8(Vec a, Vec b) { return _mm512_unpackhi_epi8(a, b); }
  static inline Vec unpack_lo16(Vec a, Vec b) { return _mm512_unpacklo_epi16(a, b); }
  static inline Vec unpack_hi16(Vec a, Vec b) { return _mm512_unpackhi_epi16(a, b); }
  static inline Vec add16(Vec a, Vec b) { return _mm512_add_epi16(a, b); }
  static inline Vec adds16(Vec a, Vec b) { return _mm512_adds_epi16(a, b); }
  static inline Vec add32(Vec a, Vec b) { return _mm512_add_epi32(a, b); }
  static inline Vec sub32(Vec a, Vec b) { return _mm512_sub_epi32(a, b); }
  static inline Vec shift7(Vec a) { return _mm512_srai_epi16(a, 7); }
  static inline Vec both(Vec a, Vec b) { return _mm512_and_si512(a, b); }
  static inline Vec sign16(Vec a) { return _mm512_srai_epi16(a, 15); }
  static inline Vec madd16(Vec a, Vec b) { return _mm512_madd_epi16(a, b); }
  static inline Vec maddu8s8(Vec a, Vec b) { return _mm512_maddubs_epi16(a, b); }
  static inline Vec pack32(Vec a, Vec b) { return _mm512_packs_epi32(a, b); }
  static inline Vec pack16_u8(Vec a, Vec b) { return _mm512_packus_epi16(a, b); }
  static inline Vec pack16_s8(Vec a, Vec b) { return _mm512_packs_epi16(a, b); }

  static inline Floats set_float(float x) { return _mm512_set1_ps(x); }
  static inline Floats to_float(Vec v) { return _mm512_cvtepi32_ps(v); }
  static inline Vec round(Floats x) { return _mm512_cvtps_epi32(x); }
  static inline Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
};

}  // namespace
}  // namespace octavo
