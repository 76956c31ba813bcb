// Attention with AVX-512: the vectors that attention-inl.h computes on.
#pragma once

#include "isa/vector_shared/attention-inl.h"
#include "isa/x86_shared/floats_avx512-inl.h"

namespace octavo {
namespace {

struct Attention512 : Floats512 {
  using Ints = __m512i;

  static inline Ints set_int(int32_t x) { return _mm512_set1_epi32(x); }
  static inline Ints load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
  // The first `count` (1 .. kCount); the others load as zeros.
  static inline Ints load_part(const int32_t* p, int count) {
    return _mm512_maskz_loadu_epi32(lane_mask(count), p);
  }
  static inline Ints first(Ints v, int count) {
    return _mm512_maskz_mov_epi32(lane_mask(count), v);
  }
  static inline Ints add_int(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static inline Ints sub_int(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
  static inline Ints max_int(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
  static inline int32_t largest(Ints v) { return _mm512_reduce_max_epi32(v); }
  static inline int32_t total(Ints v) { return _mm512_reduce_add_epi32(v); }
  static inline Vec to_float(Ints v) { return _mm512_cvtepi32_ps(v); }
  static inline Ints to_int(Vec v) { return _mm512_cvtps_epi32(v); }  // half to even
  static inline Ints upper_byte(Ints v) { return _mm512_srli_epi32(v, 8); }
  // The lowest bytes of the first `count` lanes.
  static inline void store_bytes(uint8_t* p, Ints v, int count) {
    _mm_mask_storeu_epi8(p, lane_mask(count), _mm512_cvtepi32_epi8(v));
  }
};

}  // namespace
}  // namespace octavo
