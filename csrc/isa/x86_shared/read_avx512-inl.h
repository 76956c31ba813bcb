// The bandwidth roof with 512-bit loads.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "abi/unroll.h"

namespace octavo {
namespace {

// Register budget: 4 sums; loads are operands.
static int64_t read_avx512(const void* data, int64_t size) {
  const char* p = static_cast<const char*>(data);
  __m512i sum[4];
  unroll<4>([&](auto i) OCTAVO_INLINE { sum[i] = _mm512_setzero_si512(); });
  for (const char* end = p + size; p < end; p += 256) {
    unroll<4>([&](auto i) OCTAVO_INLINE {
      sum[i] = _mm512_xor_si512(sum[i], _mm512_load_si512(p + i * 64));
    });
  }
  for (int i = 1; i < 4; ++i) sum[0] = _mm512_xor_si512(sum[0], sum[i]);
  alignas(64) int64_t words[8];
  _mm512_store_si512(words, sum[0]);
  int64_t all = 0;
  for (const int64_t word : words) all ^= word;
  return all;
}

}  // namespace
}  // namespace octavo
