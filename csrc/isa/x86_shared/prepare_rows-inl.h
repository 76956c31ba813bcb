// Rows of A on their way into a form that a kernel reads (GemmKernel::prepare).
#pragma once

#include <immintrin.h>

#include <cstring>

#include "abi/kernel_abi.h"

namespace octavo {
namespace {

// The first `rest` (1 .. 31) bytes, flipped; zeros behind them. Whole dwords need no detour through
// memory, where the load would wait for the stores.
static inline __m256i load_rest(const uint8_t* a, int rest, __m256i flip) {
  if (rest % 4 == 0) {
    const __m256i index = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(rest), index);
    const __m256i bytes = _mm256_maskload_epi32(reinterpret_cast<const int*>(a), mask);
    return _mm256_and_si256(_mm256_xor_si256(bytes, flip), mask);
  }
  alignas(32) uint8_t tail[32];
  _mm256_store_si256(reinterpret_cast<__m256i*>(tail), flip);
  std::memcpy(tail, a, rest);
  return _mm256_xor_si256(_mm256_load_si256(reinterpret_cast<const __m256i*>(tail)), flip);
}

// Calls visit(bytes, to, groups) for every 8 k groups of 4 of each row, taps one behind another; at
// a tap's end `groups` may be fewer, and the bytes past k are zero. int8 activations are offset by
// 128. `to` is where the groups' prepared form goes, kGroupBytes a group. finish_row(row) follows,
// with the row's header.
template <bool kSigned, int kGroupBytes, typename Row, typename Visit>
static inline void for_each_row_block(const GemmArgs& g, const Row& finish_row,
                                      const Visit& visit) {
  const __m256i flip = _mm256_set1_epi8(kSigned ? -128 : 0);
  for (int r = 0; r < g.m; ++r) {
    uint8_t* row = g.prepared + r * g.prepared_stride;
    uint8_t* to = row + kPreparedHeader;
    for (int t = 0; t < g.taps; ++t) {
      const uint8_t* a = g.a + r * g.a_stride + g.tap[t];
      int k = 0;
      for (; k + 32 <= g.k; k += 32, to += 8 * kGroupBytes) {
        const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + k));
        visit(_mm256_xor_si256(bytes, flip), to, 8);
      }
      if (k < g.k) {
        const int rest = g.k - k;
        visit(load_rest(a + k, rest, flip), to, (rest + 3) / 4);
        to += (rest + 3) / 4 * kGroupBytes;
      }
    }
    finish_row(row);
  }
}

// The first `pairs` (0 .. 3) qwords.
static inline void store_rest(__m256i v, uint8_t* to, int pairs) {
  __m128i low = _mm256_castsi256_si128(v);
  if (pairs >= 2) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), low);
    low = _mm256_extracti128_si256(v, 1);
    to += 16;
  }
  if (pairs % 2) _mm_storel_epi64(reinterpret_cast<__m128i*>(to), low);
}

// Interleaves the dwords of `even` and `odd`, 8 of each, and stores the first `pairs` pairs.
static inline void store_dword_pairs(__m256i even, __m256i odd, uint8_t* to, int pairs) {
  const __m256i low = _mm256_unpacklo_epi32(even, odd), high = _mm256_unpackhi_epi32(even, odd);
  const __m256i first = _mm256_permute2x128_si256(low, high, 0x20);
  const __m256i second = _mm256_permute2x128_si256(low, high, 0x31);
  if (pairs == 8) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), first);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32), second);
  } else {
    store_rest(pairs >= 4 ? second : first, pairs >= 4 ? to + 32 : to, pairs % 4);
    if (pairs >= 4) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), first);
  }
}

static inline int32_t sum_lanes8(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}

}  // namespace
}  // namespace octavo
