// Linear functions and moments with AVX2: the vectors that normalize-inl.h computes on.
#pragma once

#include <immintrin.h>

#include "isa/vector_shared/normalize-inl.h"
#include "isa/x86_shared/pooling_avx2-inl.h"

namespace octavo {
namespace {

struct FloatBytes256 : Bytes256 {
  static constexpr bool kDot = false;  // whether there is vpdpbusd
  // kBytes bytes as floats, a quarter of them at a time.
  template <bool kSigned>
  struct Quarters {
    inline OCTAVO_INLINE explicit Quarters(const uint8_t* p) : p(p) {}
    inline OCTAVO_INLINE Floats operator[](int j) const {
      const __m128i q = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + j * (kBytes / 4)));
      return _mm256_cvtepi32_ps(kSigned ? _mm256_cvtepi8_epi32(q) : _mm256_cvtepu8_epi32(q));
    }
    const uint8_t* p;
  };
  // 2^23 + byte, in the order that pack32 and pack16 undo.
  static inline void widen(Vec v, Floats (&x)[4]) {
    const Vec none = _mm256_setzero_si256(), top = _mm256_set1_epi16(0x4b00);
    const Vec low = _mm256_unpacklo_epi8(v, none), high = _mm256_unpackhi_epi8(v, none);
    x[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, top));
    x[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, top));
    x[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(high, top));
    x[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(high, top));
  }
  // Inlined by force: gcc drops calls of a function that only prefetches.
  static inline OCTAVO_INLINE void prefetch(const uint8_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
  }
  static inline Floats load_floats(const float* p) { return _mm256_loadu_ps(p); }
  static inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static inline Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  static inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static inline Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
  static inline Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  // Values above `limit` need not differ from it: beyond int32 conversion gives INT_MIN.
  static inline Vec round_up_to(Floats x, Floats limit) { return round(min(x, limit)); }
  // Bytes packed by pack32 and pack16 in the order of the values.
  static inline Vec in_order(Vec v) {
    return _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
  static inline Vec min_u8(Vec a, Vec b) { return _mm256_min_epu8(a, b); }
  static inline Vec min_s8(Vec a, Vec b) { return _mm256_min_epi8(a, b); }
  static inline Vec high_bytes(Vec v) { return _mm256_srli_epi16(v, 8); }
  static inline Vec sum_bytes(Vec v) { return _mm256_sad_epu8(v, _mm256_setzero_si256()); }
  static inline Vec add64(Vec a, Vec b) { return _mm256_add_epi64(a, b); }
  static inline Vec first_bytes(int n) { return load_part(kOnes, n); }
  static inline int64_t total64(Vec v) {
    alignas(32) int64_t lanes[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), v);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
  }
  static inline int64_t total32(Vec v) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), v);
    int64_t total = 0;
    for (int i = 0; i < 8; ++i) total += lanes[i];
    return total;
  }

 private:
  alignas(32) static constexpr uint8_t kOnes[32] = {
      255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
      255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
};

}  // namespace
}  // namespace octavo
