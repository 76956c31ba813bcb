// The arithmetic roof of vpdpbusd on 256-bit registers alone.
#pragma once

#include "isa/avx_vnni/gemm-inl.h"

namespace octavo {
namespace {

// Register budget (16 ymm): 12 accumulators, 2 operands.
int64_t peak(int64_t steps) {
  constexpr int kChains = 12;
  __m256i acc[kChains];
  const __m256i a = _mm256_set1_epi8(5), b = _mm256_set1_epi8(-3);
  unroll<kChains>([&](auto i) OCTAVO_INLINE { acc[i] = _mm256_setzero_si256(); });
  for (int64_t s = 0; s < steps; ++s) {
    unroll<kChains>([&](auto i) OCTAVO_INLINE { acc[i] = dot4(acc[i], a, b); });
    unroll<kChains>([&](auto i) OCTAVO_INLINE {
      __m256i& sum = acc[i];
      __asm__ volatile("" : "+x"(sum));  // keeps every product
    });
  }
  return steps * kChains * 32;
}

}  // namespace
}  // namespace octavo
