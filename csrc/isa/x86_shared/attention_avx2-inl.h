// Attention with AVX2: the vectors that attention-inl.h computes on.
#pragma once

#include "isa/vector_shared/attention-inl.h"
#include "isa/x86_shared/floats_avx2-inl.h"

namespace octavo {
namespace {

struct Attention256 : Floats256 {
  using Ints = __m256i;

  static inline Ints set_int(int32_t x) { return _mm256_set1_epi32(x); }
  static inline Ints load_ints(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  // The first `count` (1 .. kCount); the others load as zeros.
  static inline Ints load_part(const int32_t* p, int count) {
    return load_ints8(p, lane_mask8(count));
  }
  static inline Ints first(Ints v, int count) { return _mm256_and_si256(v, lane_mask8(count)); }
  static inline Ints add_int(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
  static inline Ints sub_int(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
  static inline Ints max_int(Ints a, Ints b) { return _mm256_max_epi32(a, b); }
  static inline int32_t largest(Ints v) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), v);
    int32_t most = lanes[0];
    for (int i = 1; i < 8; ++i) most = lanes[i] > most ? lanes[i] : most;
    return most;
  }
  static inline int32_t total(Ints v) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), v);
    int32_t sum = 0;
    for (int i = 0; i < 8; ++i) sum += lanes[i];
    return sum;
  }
  static inline Vec to_float(Ints v) { return _mm256_cvtepi32_ps(v); }
  static inline Ints to_int(Vec v) { return _mm256_cvtps_epi32(v); }  // half to even
  static inline Ints upper_byte(Ints v) { return _mm256_srli_epi32(v, 8); }
  // The lowest bytes of the first `count` lanes.
  static inline void store_bytes(uint8_t* p, Ints v, int count) {
    const int64_t bytes = low_bytes(v);
    std::memcpy(p, &bytes, static_cast<size_t>(count));
  }
};

}  // namespace
}  // namespace octavo
