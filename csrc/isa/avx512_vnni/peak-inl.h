// The arithmetic roof of vpdpbusd on 512-bit registers alone.
#pragma once

#include <immintrin.h>

#include "abi/unroll.h"

namespace octavo {
namespace {

// Register budget (32 zmm): 24 accumulators, 2 operands.
int64_t peak(int64_t steps) {
  constexpr int kChains = 24;
  __m512i acc[kChains];
  const __m512i a = _mm512_set1_epi8(5), b = _mm512_set1_epi8(-3);
  unroll<kChains>([&](auto i) OCTAVO_INLINE { acc[i] = _mm512_setzero_si512(); });
  for (int64_t s = 0; s < steps; ++s) {
    unroll<kChains>([&](auto i) OCTAVO_INLINE { acc[i] = _mm512_dpbusd_epi32(acc[i], a, b); });
    unroll<kChains>([&](auto i) OCTAVO_INLINE {
      __m512i& sum = acc[i];
      __asm__ volatile("" : "+v"(sum));  // keeps every product
    });
  }
  return steps * kChains * 64;
}

}  // namespace
}  // namespace octavo
