// GEMM for many rows without dot-product instructions, exact for every input, by Winograd's inner
// product (S. Winograd, "A New Algorithm for Inner Product", IEEE Trans. Computers C-17, 1968):
//
//   a0 b0 + a1 b1 = (a0 + b1)(a1 + b0) - a0 a1 - b0 b1
//
// The last two terms depend on one row and on one column alone and are summed once each, so two
// products cost one multiplication. vpmaddwd does two of those in a lane: four k for two vpaddw, a
// vpmaddwd and a vpaddd. vpmaddubsw's shorter sequence saturates; widening both operands, the other
// exact form, needs two vpmaddwd and two vpaddd for the same four k, and where vector units do not
// all multiply that is slower: 192 against 236 GOP/s with 256-bit vectors on Zen 4, whose
// vpmaddubsw sequence also ends at 236.
//
// Sums wrap modulo 2^32 and come back: |a + b| < 2^9, so nothing saturates on the way.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/prepare_rows-inl.h"

namespace octavo {
namespace {

constexpr int kInnerProductRows = 128;
constexpr int kInnerProductGroupBytes = 8;

// A as the kernel reads it: for each group of 4 k the dwords (a0, a2) and (a1, a3), 16 bits each.
// The header holds the row's sum of a0 a1 + a2 a3.
template <bool kSigned>
void prepare_inner_product(const GemmArgs* args) {
  const __m256i low = _mm256_set1_epi16(0xff);
  __m256i sum = _mm256_setzero_si256();
  for_each_row_block<kSigned, kInnerProductGroupBytes>(
      *args,
      [&](uint8_t* row) {
        const int32_t pairs = sum_lanes8(sum);
        std::memcpy(row, &pairs, sizeof pairs);
        sum = _mm256_setzero_si256();
      },
      [&](__m256i bytes, uint8_t* to, int groups) {
        const __m256i even = _mm256_and_si256(bytes, low), odd = _mm256_srli_epi16(bytes, 8);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, odd));
        store_dword_pairs(even, odd, to, groups);
      });
}

// What a call keeps in its task's scratch: weights of a block of k, widened once for all rows, and
// sums between blocks.
template <typename V, int NV>
struct InnerProductScratch {
  static constexpr int kGroups = 2048 / (NV * V::kInts);  // 16 KiB of widened weights, half the L1
  alignas(64) int16_t b[kGroups][2][NV][2 * V::kInts];    // [group][even k, odd k]
  alignas(64) int32_t acc[kInnerProductRows][NV * V::kInts];
};

// Widens `groups` k groups; adds the columns' sums of b0 b1 + b2 b3. Not inlined: gcc would keep
// the sums in memory, where each step waits for the last one's store.
template <typename V, int NV>
__attribute__((noinline)) void widen_weights(const int8_t* b, ptrdiff_t b_stride, int groups,
                                             InnerProductScratch<V, NV>& scratch,
                                             typename V::Vec (&pair_sum)[NV]) {
  typename V::Vec sum[NV];
  unroll<NV>([&](auto v) OCTAVO_INLINE { sum[v] = pair_sum[v]; });
  for (int i = 0; i < groups; ++i, b += b_stride) {
    _mm_prefetch(b + 24 * b_stride, _MM_HINT_T0);
    unroll<NV>([&](auto v) OCTAVO_INLINE {
      const auto bytes = V::load(b + v * 4 * V::kInts);
      const auto even = V::even_bytes(bytes), odd = V::odd_bytes(bytes);
      V::store(scratch.b[i][0][v], even);
      V::store(scratch.b[i][1][v], odd);
      sum[v] = V::add32(sum[v], V::madd16(even, odd));
    });
  }
  unroll<NV>([&](auto v) OCTAVO_INLINE { pair_sum[v] = sum[v]; });
}

// Register budget, 16 ymm as 4 x 2 or 32 zmm as 8 x 2: MR * NV accumulators, 2 NV vectors of B, 2
// broadcasts of A, 2 sums.
//
// Rows are addressed from every third one, so that base + {0, 1, 2} * stride needs no pointer per
// row.
template <typename V, int NV, int MR>
static inline OCTAVO_INLINE void multiply_rows(typename V::Vec (&acc)[MR][NV], const uint8_t* a,
                                               ptrdiff_t stride,
                                               const InnerProductScratch<V, NV>& scratch,
                                               int groups) {
  const auto pair = [](const uint8_t* p) OCTAVO_INLINE {
    int32_t dword;
    std::memcpy(&dword, p, 4);
    return V::set32(dword);
  };
  constexpr int kBases = (MR + 2) / 3;
  const uint8_t* base[kBases];
  unroll<kBases>([&](auto i) OCTAVO_INLINE { base[i] = a + 3 * i * stride; });
  for (int i = 0; i < groups; ++i) {
    typename V::Vec even[NV], odd[NV];
    unroll<NV>([&](auto v) OCTAVO_INLINE {
      even[v] = V::load(scratch.b[i][0][v]);
      odd[v] = V::load(scratch.b[i][1][v]);
    });
    unroll<MR>([&](auto r) OCTAVO_INLINE {
      const uint8_t* row = base[r / 3] + r % 3 * stride;
      const auto a_even = pair(row), a_odd = pair(row + 4);
      unroll<NV>([&](auto v) OCTAVO_INLINE {
        const auto product = V::madd16(V::add16(a_even, odd[v]), V::add16(a_odd, even[v]));
        acc[r][v] = V::add32(acc[r][v], product);
      });
    });
    unroll<kBases>([&](auto j) OCTAVO_INLINE { base[j] += kInnerProductGroupBytes; });
  }
}

// One block of k of one call.
struct InnerProductBlock {
  int first_group, groups;
  bool first, last;
};

template <typename V, int NV, int MR>
__attribute__((noinline)) void inner_product_rows(const GemmArgs& g, int row0,
                                                  const InnerProductBlock& block,
                                                  InnerProductScratch<V, NV>& scratch,
                                                  const typename V::Vec (&init)[NV]) {
  typename V::Vec acc[MR][NV];
  unroll<MR>([&](auto r) OCTAVO_INLINE {
    unroll<NV>([&](auto v) OCTAVO_INLINE {
      acc[r][v] = block.first ? V::zero() : V::load(&scratch.acc[row0 + r][v * V::kInts]);
    });
  });
  const uint8_t* row = g.prepared + row0 * g.prepared_stride;
  const ptrdiff_t skip = kPreparedHeader + ptrdiff_t{block.first_group} * kInnerProductGroupBytes;
  multiply_rows<V, NV, MR>(acc, row + skip, g.prepared_stride, scratch, block.groups);
  if (!block.last) {
    unroll<MR>([&](auto r) OCTAVO_INLINE {
      unroll<NV>([&](auto v)
                     OCTAVO_INLINE { V::store(&scratch.acc[row0 + r][v * V::kInts], acc[r][v]); });
    });
    return;
  }
  unroll<MR>([&](auto r) OCTAVO_INLINE {
    int32_t pairs;
    std::memcpy(&pairs, row + r * g.prepared_stride, sizeof pairs);
    unroll<NV>([&](auto v) OCTAVO_INLINE {
      acc[r][v] = V::add32(acc[r][v], V::sub32(init[v], V::set32(pairs)));
    });
  });
  V::store_tile(acc, g, row0);
}

template <typename V, int NV, int MR, int... Rest>
static inline void inner_product_split(const GemmArgs& g, int row0, const InnerProductBlock& block,
                                       InnerProductScratch<V, NV>& scratch,
                                       const typename V::Vec (&init)[NV]) {
  for (; g.m - row0 >= MR; row0 += MR) inner_product_rows<V, NV, MR>(g, row0, block, scratch, init);
  if constexpr (sizeof...(Rest) > 0)
    inner_product_split<V, NV, Rest...>(g, row0, block, scratch, init);
}

template <typename V, int NV, int... kRows>
static inline void inner_product_panel(const GemmArgs& g) {
  using Scratch = InnerProductScratch<V, NV>;
  Scratch& scratch = *static_cast<Scratch*>(g.scratch);
  const int groups = g.taps * ((g.k + 3) / 4);
  typename V::Vec pair_sum[NV], init[NV];
  unroll<NV>([&](auto v) OCTAVO_INLINE { pair_sum[v] = init[v] = V::zero(); });
  for (int i = 0; i < groups; i += Scratch::kGroups) {
    const int count = groups - i < Scratch::kGroups ? groups - i : Scratch::kGroups;
    const InnerProductBlock block = {i, count, i == 0, i + count == groups};
    widen_weights<V, NV>(g.b + i * g.b_stride, g.b_stride, count, scratch, pair_sum);
    if (block.last) {
      unroll<NV>([&](auto v) OCTAVO_INLINE {
        constexpr int kColumn = v * V::kInts;
        const auto start = V::load_ints(g.epilogue->acc_init + g.n0 + kColumn, g.n - kColumn);
        init[v] = V::sub32(start, pair_sum[v]);
      });
    }
    inner_product_split<V, NV, kRows...>(g, 0, block, scratch, init);
  }
}

// kRows: the row counts that are compiled, largest first, down to 1. Panels are at least n columns
// wide, rounded up to a vector.
template <typename V, int... kRows>
void gemm_inner_product(const GemmArgs* g) {
  if (g->n > V::kInts) {
    inner_product_panel<V, 2, kRows...>(*g);
  } else {
    inner_product_panel<V, 1, kRows...>(*g);
  }
}

template <typename V, int kStep, int... kRest>
constexpr GemmKernel inner_product_row(const char* name, PackFormat format, uint16_t min_m) {
  GemmKernel row{};
  row.name = name;
  row.fn[0] = row.fn[1] = gemm_inner_product<V, kStep, kRest...>;
  row.prepare[0] = prepare_inner_product<false>;
  row.prepare[1] = prepare_inner_product<true>;
  row.prepared_bytes_per_group = kInnerProductGroupBytes;
  row.format = format;
  row.mr = kInnerProductRows;
  row.nr = 2 * V::kInts;
  row.m_step = kStep;
  row.k_step = 4;
  row.min_m = min_m;
  row.max_n = format.nr;
  row.a_offset[1] = 128;
  row.scratch_bytes = sizeof(InnerProductScratch<V, 2>) > sizeof(InnerProductScratch<V, 1>)
                          ? sizeof(InnerProductScratch<V, 2>)
                          : sizeof(InnerProductScratch<V, 1>);
  return row;
}

// The arithmetic roof of this sequence, on registers alone: 4 k of V::kInts columns for two vpaddw,
// a vpmaddwd and a vpaddd.
//
// Register budget (16): 8 accumulators, 2 operands, sums.
template <typename V>
int64_t peak_inner_product(int64_t steps) {
  constexpr int kChains = 8;
  typename V::Vec acc[kChains];
  typename V::Vec a = V::set16(255), b = V::set16(-3);
  unroll<kChains>([&](auto i) OCTAVO_INLINE { acc[i] = V::zero(); });
  for (int64_t s = 0; s < steps; ++s) {
    unroll<kChains>([&](auto i) OCTAVO_INLINE {
      __asm__ volatile("" : "+v"(a), "+v"(b));  // keeps the sums from being hoisted
      acc[i] = V::add32(acc[i], V::madd16(V::add16(a, b), V::add16(b, b)));
    });
  }
  unroll<kChains>([&](auto i) OCTAVO_INLINE {
    const auto& sum = acc[i];
    __asm__ volatile("" : : "v"(sum));
  });
  return steps * kChains * 4 * V::kInts;
}

}  // namespace
}  // namespace octavo
