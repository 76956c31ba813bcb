// The arithmetic roof of the exact AVX2 sequence: vpmaddwd and vpaddd, on registers alone.
#pragma once

#include <immintrin.h>

#include "abi/unroll.h"

namespace octavo {
namespace {

// Register budget (16 ymm): 12 accumulators, 2 operands, products.
int64_t peak(int64_t steps) {
  constexpr int kChains = 12;
  __m256i acc[kChains];
  __m256i a = _mm256_set1_epi16(255), b = _mm256_set1_epi16(-3);
  unroll<kChains>([&](auto i) OCTAVO_INLINE { acc[i] = _mm256_setzero_si256(); });
  for (int64_t s = 0; s < steps; ++s) {
    __asm__ volatile("" : "+x"(a), "+x"(b));  // keeps the products from being hoisted
    unroll<kChains>([&](auto i) OCTAVO_INLINE {
      __m256i factor = b;
      __asm__ volatile("" : "+x"(factor));
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(a, factor));
    });
  }
  unroll<kChains>([&](auto i) OCTAVO_INLINE {
    const __m256i& sum = acc[i];
    __asm__ volatile("" : : "x"(sum));
  });
  return steps * kChains * 16;
}

}  // namespace
}  // namespace octavo
