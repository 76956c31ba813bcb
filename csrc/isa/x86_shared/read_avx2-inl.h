// The bandwidth roof with 256-bit loads.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "abi/unroll.h"

namespace octavo {
namespace {

// Register budget: 8 sums; loads are operands.
static int64_t read_avx2(const void* data, int64_t size) {
  const char* p = static_cast<const char*>(data);
  __m256i sum[8];
  unroll<8>([&](auto i) OCTAVO_INLINE { sum[i] = _mm256_setzero_si256(); });
  for (const char* end = p + size; p < end; p += 256) {
    unroll<8>([&](auto i) OCTAVO_INLINE {
      const __m256i bytes = _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i * 32));
      sum[i] = _mm256_xor_si256(sum[i], bytes);
    });
  }
  for (int i = 1; i < 8; ++i) sum[0] = _mm256_xor_si256(sum[0], sum[i]);
  alignas(32) int64_t words[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(words), sum[0]);
  return words[0] ^ words[1] ^ words[2] ^ words[3];
}

}  // namespace
}  // namespace octavo
