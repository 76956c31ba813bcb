// 256-bit vectors under the names that kernels for both widths use.
#pragma once

#include <immintrin.h>

#include "abi/kernel_abi.h"
#include "isa/x86_shared/epilogue_registers_avx2-inl.h"

namespace octavo {
namespace {

struct Lanes256 {
  using Vec = __m256i;
  static constexpr int kInts = 8;  // int32 in a vector

  static inline Vec zero() { return _mm256_setzero_si256(); }
  static inline Vec load(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static inline void store(void* p, Vec v) { _mm256_store_si256(static_cast<__m256i*>(p), v); }
  static inline Vec set16(int16_t x) { return _mm256_set1_epi16(x); }
  static inline Vec set32(int32_t x) { return _mm256_set1_epi32(x); }
  static inline Vec add16(Vec a, Vec b) { return _mm256_add_epi16(a, b); }
  static inline Vec add32(Vec a, Vec b) { return _mm256_add_epi32(a, b); }
  static inline Vec sub32(Vec a, Vec b) { return _mm256_sub_epi32(a, b); }
  static inline Vec madd16(Vec a, Vec b) { return _mm256_madd_epi16(a, b); }
  static inline Vec maddu8s8(Vec a, Vec b) { return _mm256_maddubs_epi16(a, b); }
  // The signed bytes at even and at odd places, each as int16.
  static inline Vec even_bytes(Vec v) { return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8); }
  static inline Vec odd_bytes(Vec v) { return _mm256_srai_epi16(v, 8); }
  // The signed bytes 0, 1 (H = 0) or 2, 3 (H = 1) of each dword as pairs of int16.
  template <int H>
  static inline Vec signed_pairs(Vec v) {
    constexpr char a = 2 * H, b = 2 * H + 1;
    const __m128i pick = _mm_setr_epi8(-1, a, -1, b, -1, a + 4, -1, b + 4, -1, a + 8, -1, b + 8, -1,
                                       a + 12, -1, b + 12);
    return odd_bytes(_mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(pick)));
  }

  // The first `lanes` of kInts; none where `lanes` is not positive.
  static inline Vec load_ints(const int32_t* p, int lanes) {
    return load_ints8(p, lane_mask8(lanes));
  }
  template <int MR, int NV>
  static inline OCTAVO_INLINE void store_tile(const Vec (&acc)[MR][NV], const GemmArgs& g,
                                              int row0) {
    store_accumulators8<MR, NV>(acc, g, row0);
  }
};

}  // namespace
}  // namespace octavo
