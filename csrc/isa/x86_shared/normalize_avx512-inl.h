// Linear functions and moments with AVX-512: the vectors that normalize-inl.h computes on.
#pragma once

#include <immintrin.h>

#include "isa/vector_shared/normalize-inl.h"
#include "isa/x86_shared/pooling_avx512-inl.h"

namespace octavo {
namespace {

struct FloatBytes512 : Bytes512 {
  // Whether there is vpdpbusd.
#if defined(__AVX512VNNI__)
  static constexpr bool kDot = true;
  static inline Vec dot(Vec sum, Vec u8, Vec s8) { return _mm512_dpbusd_epi32(sum, u8, s8); }
#else
  static constexpr bool kDot = false;
#endif
  // kBytes bytes as floats, a quarter of them at a time.
  template <bool kSigned>
  struct Quarters {
    inline OCTAVO_INLINE explicit Quarters(const uint8_t* p) : p(p) {}
    inline OCTAVO_INLINE Floats operator[](int j) const {
      const __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + j * (kBytes / 4)));
      return _mm512_cvtepi32_ps(kSigned ? _mm512_cvtepi8_epi32(q) : _mm512_cvtepu8_epi32(q));
    }
    const uint8_t* p;
  };
  // 2^23 + byte, in the order that pack32 and pack16 undo.
  static inline void widen(Vec v, Floats (&x)[4]) {
    const Vec top = _mm512_set1_epi32(0x4b000000);
    unroll<4>([&](auto j) OCTAVO_INLINE {
      constexpr int kFirst = 4 * kIndex<decltype(j)>;
      const Vec from = _mm512_set4_epi32(kFirst + 3, kFirst + 2, kFirst + 1, kFirst);
      x[j] = _mm512_castsi512_ps(_mm512_mask_shuffle_epi8(top, 0x1111111111111111ull, v, from));
    });
  }
  // Inlined by force: gcc drops calls of a function that only prefetches.
  static inline OCTAVO_INLINE void prefetch(const uint8_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
  }
  static inline Floats load_floats(const float* p) { return _mm512_loadu_ps(p); }
  static inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static inline Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
  static inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  // Values above `limit` need not differ from it: beyond int32 conversion gives INT_MIN.
  static inline Vec round_up_to(Floats x, Floats limit) { return round(min(x, limit)); }
  // Bytes packed by pack32 and pack16 in the order of the values.
  static inline Vec in_order(Vec v) {
    const Vec order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, v);
  }
  static inline Vec min_u8(Vec a, Vec b) { return _mm512_min_epu8(a, b); }
  static inline Vec min_s8(Vec a, Vec b) { return _mm512_min_epi8(a, b); }
  static inline Vec high_bytes(Vec v) { return _mm512_srli_epi16(v, 8); }
  static inline Vec sum_bytes(Vec v) { return _mm512_sad_epu8(v, _mm512_setzero_si512()); }
  static inline Vec add64(Vec a, Vec b) { return _mm512_add_epi64(a, b); }
  static inline Vec first_bytes(int n) { return _mm512_maskz_set1_epi8(first(n), -1); }
  static inline int64_t total64(Vec v) { return _mm512_reduce_add_epi64(v); }
  // Lanes are below 2^31, and may not be once they are added.
  static inline int64_t total32(Vec v) {
    const __m256i low = _mm512_castsi512_si256(v), high = _mm512_extracti64x4_epi64(v, 1);
    return _mm512_reduce_add_epi64(
        _mm512_add_epi64(_mm512_cvtepi32_epi64(low), _mm512_cvtepi32_epi64(high)));
  }
};

}  // namespace
}  // namespace octavo
