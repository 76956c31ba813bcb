// GEMM for few rows without dot-product instructions: streams the weights once, exact for every
// input.
//
// vpmaddubsw saturates where activations use all 8 bits. Their lower 7 bits never do (2 * 127 * 128
// < 2^15), and the top bit alone, 0 or 1, sums in 16 bits for over a hundred steps. Rows whose top
// bits are all clear, which is what reduce_range gives, skip that half.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/prepare_rows-inl.h"

namespace octavo {
namespace {

constexpr int kSplitRows = 4;
constexpr int kSplitGroupBytes = 8;
// k groups between two emptyings of the 16-bit sums: 2 * 128 for each, below 2^15.
constexpr int kTopBitGroups = 64;

// A as the kernel reads it: for each group of 4 k a dword of the lower 7 bits and one of the top
// bits, as 0 or 1. The header says whether any is set.
template <bool kSigned>
void prepare_split_bits(const GemmArgs* args) {
  const __m256i low = _mm256_set1_epi8(0x7f), one = _mm256_set1_epi8(1);
  __m256i any = _mm256_setzero_si256();
  for_each_row_block<kSigned, kSplitGroupBytes>(
      *args,
      [&](uint8_t* row) {
        const int32_t set = !_mm256_testz_si256(any, any);
        std::memcpy(row, &set, sizeof set);
        any = _mm256_setzero_si256();
      },
      [&](__m256i bytes, uint8_t* to, int groups) {
        const __m256i top = _mm256_and_si256(_mm256_srli_epi16(bytes, 7), one);
        any = _mm256_or_si256(any, top);
        store_dword_pairs(_mm256_and_si256(bytes, low), top, to, groups);
      });
}

// Register budget (16 ymm, MR <= 2, NV = 2): MR * NV sums of 32 bits, as many of 16, NV vectors of
// B, 2 broadcasts of A, ones, 1 product.
template <typename V, int NV, int MR, bool kTop>
__attribute__((noinline)) void split_bits_rows(const GemmArgs& g, int row0) {
  using Vec = typename V::Vec;
  const auto broadcast = [](const uint8_t* p) OCTAVO_INLINE {
    int32_t dword;
    std::memcpy(&dword, p, 4);
    return V::set32(dword);
  };
  Vec acc[MR][NV];
  unroll<NV>([&](auto v) OCTAVO_INLINE {
    constexpr int kColumn = v * V::kInts;
    const Vec init = V::load_ints(g.epilogue->acc_init + g.n0 + kColumn, g.n - kColumn);
    unroll<MR>([&](auto r) OCTAVO_INLINE { acc[r][v] = init; });
  });
  const Vec ones = V::set16(1);
  const int8_t* b = g.b;
  const uint8_t* a = g.prepared + row0 * g.prepared_stride + kPreparedHeader;
  const ptrdiff_t stride = g.prepared_stride, b_stride = g.b_stride;
  int groups = g.taps * ((g.k + 3) / 4);
  while (groups > 0) {
    const int count = groups < kTopBitGroups ? groups : kTopBitGroups;
    groups -= count;
    Vec top[MR][NV];
    if constexpr (kTop) {
      unroll<MR>([&](auto r) OCTAVO_INLINE {
        unroll<NV>([&](auto v) OCTAVO_INLINE { top[r][v] = V::zero(); });
      });
    }
    for (int i = 0; i < count; ++i, b += b_stride, a += kSplitGroupBytes) {
      Vec vb[NV];
      unroll<NV>([&](auto v) OCTAVO_INLINE { vb[v] = V::load(b + v * 4 * V::kInts); });
      unroll<MR>([&](auto r) OCTAVO_INLINE {
        const Vec low = broadcast(a + r * stride);
        unroll<NV>([&](auto v) OCTAVO_INLINE {
          acc[r][v] = V::add32(acc[r][v], V::madd16(V::maddu8s8(low, vb[v]), ones));
        });
        if constexpr (kTop) {
          const Vec high = broadcast(a + r * stride + 4);
          unroll<NV>([&](auto v) OCTAVO_INLINE {
            top[r][v] = V::add16(top[r][v], V::maddu8s8(high, vb[v]));
          });
        }
      });
    }
    if constexpr (kTop) {
      unroll<MR>([&](auto r) OCTAVO_INLINE {
        unroll<NV>([&](auto v) OCTAVO_INLINE {
          acc[r][v] = V::add32(acc[r][v], V::madd16(top[r][v], V::set16(128)));
        });
      });
    }
  }
  V::store_tile(acc, g, row0);
}

template <typename V, int NV, int MR, int... Rest>
static inline void split_bits_split(const GemmArgs& g, int row0) {
  for (; g.m - row0 >= MR; row0 += MR) {
    int32_t any = 0;
    for (int r = 0; r < MR; ++r) {
      int32_t set;
      std::memcpy(&set, g.prepared + (row0 + r) * g.prepared_stride, sizeof set);
      any |= set;
    }
    if (any) {
      split_bits_rows<V, NV, MR, true>(g, row0);
    } else {
      split_bits_rows<V, NV, MR, false>(g, row0);
    }
  }
  if constexpr (sizeof...(Rest) > 0) split_bits_split<V, NV, Rest...>(g, row0);
}

// kRows: the row counts that are compiled, largest first, down to 1.
template <typename V, int... kRows>
void gemm_split_bits(const GemmArgs* g) {
  if (g->n > V::kInts) {
    split_bits_split<V, 2, kRows...>(*g, 0);
  } else {
    split_bits_split<V, 1, kRows...>(*g, 0);
  }
}

template <typename V, int kStep, int... kRest>
constexpr GemmKernel split_bits_row(const char* name, PackFormat format) {
  GemmKernel row{};
  row.name = name;
  row.fn[0] = row.fn[1] = gemm_split_bits<V, kStep, kRest...>;
  row.prepare[0] = prepare_split_bits<false>;
  row.prepare[1] = prepare_split_bits<true>;
  row.prepared_bytes_per_group = kSplitGroupBytes;
  row.format = format;
  row.mr = kSplitRows;
  row.nr = 2 * V::kInts;
  row.m_step = kStep;
  row.k_step = 4;
  row.min_m = 1;
  row.max_n = format.nr;
  row.a_offset[1] = 128;
  return row;
}

}  // namespace
}  // namespace octavo
