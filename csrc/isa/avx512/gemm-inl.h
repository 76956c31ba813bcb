// GEMM for many rows with AVX-512: Winograd's inner product, weights widened on the way.
//
// As x86_shared/gemm_inner_product-inl.h, where it is explained, but 32 registers hold a tile so
// tall that widening the weights again for each one costs 3 instructions in 100: nothing passes
// through memory.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/epilogue_registers_avx512-inl.h"
#include "isa/x86_shared/gemm_inner_product-inl.h"

namespace octavo {
namespace {

static inline __m512i broadcast_pair(const uint8_t* p) {
  int32_t pair;
  std::memcpy(&pair, p, 4);
  return _mm512_set1_epi32(pair);
}

// How far ahead a call's first tile fetches weights.
constexpr int kPrefetchGroups = 16;

// Register budget (32 zmm): MR <= 24 accumulators, 2 vectors of B, 2 broadcasts of A, a sum, and in
// the call's first tile the columns' sum of b0 b1 + b2 b3.
template <int MR, bool kFirstTile>
__attribute__((noinline)) void inner_product_tile(const GemmArgs& g, int row0,
                                                  __m512i& column_sum) {
  constexpr int kBases = (MR + 2) / 3;
  const ptrdiff_t stride = g.prepared_stride, b_stride = g.b_stride;
  const uint8_t* row = g.prepared + row0 * stride;
  const uint8_t* base[kBases];
  unroll<kBases>([&](auto i) OCTAVO_INLINE { base[i] = row + kPreparedHeader + 3 * i * stride; });
  __m512i acc[MR][1];
  unroll<MR>([&](auto r) OCTAVO_INLINE { acc[r][0] = _mm512_setzero_si512(); });
  __m512i sum = _mm512_setzero_si512();
  const int8_t* b = g.b;
  const int8_t* end = b + static_cast<ptrdiff_t>(g.taps) * ((g.k + 3) / 4) * b_stride;
  for (; b != end; b += b_stride) {
    const __m512i bytes = _mm512_loadu_si512(b);
    const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8);
    const __m512i odd = _mm512_srai_epi16(bytes, 8);
    if constexpr (kFirstTile) {
      sum = _mm512_add_epi32(sum, _mm512_madd_epi16(even, odd));
      // The other half of the panel's lines too, which hardware prefetchers pass over.
      _mm_prefetch(b + kPrefetchGroups * b_stride, _MM_HINT_T0);
      _mm_prefetch(b + kPrefetchGroups * b_stride + 64, _MM_HINT_T0);
    }
    unroll<MR>([&](auto r) OCTAVO_INLINE {
      const uint8_t* a = base[r / 3] + r % 3 * stride;
      const __m512i left = _mm512_add_epi16(broadcast_pair(a), odd);
      const __m512i right = _mm512_add_epi16(broadcast_pair(a + 4), even);
      acc[r][0] = _mm512_add_epi32(acc[r][0], _mm512_madd_epi16(left, right));
    });
    unroll<kBases>([&](auto i) OCTAVO_INLINE { base[i] += kInnerProductGroupBytes; });
  }
  if constexpr (kFirstTile) column_sum = sum;
  const __mmask16 mask = lane_mask(g.n);
  const __m512i init = _mm512_sub_epi32(load_ints(g.epilogue->acc_init + g.n0, mask), column_sum);
  unroll<MR>([&](auto r) OCTAVO_INLINE {
    int32_t row_sum;
    std::memcpy(&row_sum, row + r * stride, sizeof row_sum);
    const __m512i start = _mm512_sub_epi32(init, _mm512_set1_epi32(row_sum));
    acc[r][0] = _mm512_add_epi32(acc[r][0], start);
  });
  store_accumulators<MR, 1>(acc, g, row0);
}

template <int MR, int... Rest>
static inline void inner_product_tiles(const GemmArgs& g, int row0, __m512i& column_sum) {
  for (; g.m - row0 >= MR; row0 += MR) {
    if (row0 == 0) {
      inner_product_tile<MR, true>(g, row0, column_sum);
    } else {
      inner_product_tile<MR, false>(g, row0, column_sum);
    }
  }
  if constexpr (sizeof...(Rest) > 0) inner_product_tiles<Rest...>(g, row0, column_sum);
}

void gemm_inner_product_tall(const GemmArgs* g) {
  __m512i column_sum;
  inner_product_tiles<24, 16, 12, 8, 6, 4, 3, 2, 1>(*g, 0, column_sum);
}

constexpr GemmKernel inner_product_tall_row(const char* name, PackFormat format, uint16_t min_m) {
  GemmKernel row{};
  row.name = name;
  row.fn[0] = row.fn[1] = gemm_inner_product_tall;
  row.prepare[0] = prepare_inner_product<false>;
  row.prepare[1] = prepare_inner_product<true>;
  row.prepared_bytes_per_group = kInnerProductGroupBytes;
  row.format = format;
  row.mr = kInnerProductRows;
  row.nr = 16;
  row.m_step = 8;
  row.k_step = 4;
  row.min_m = min_m;
  row.max_n = format.nr;
  row.a_offset[1] = 128;
  return row;
}

}  // namespace
}  // namespace octavo
