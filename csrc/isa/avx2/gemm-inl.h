// GEMM tiles with vpmaddwd on 256-bit vectors: exact for every input, as no 16-bit sum can
// saturate.
//
// vpmaddubsw would do twice the work an instruction, but its 16-bit sums of two u8 * s8 products
// saturate. So both operands are widened to 16 bits: A once per tile into a buffer on the stack,
// from where pairs are broadcast by the load ports alone; B in registers, each load serving all
// rows.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/epilogue_avx2-inl.h"

namespace octavo {
namespace {

// k that are widened at a time: 6 rows take 6 KiB of the L1 cache.
constexpr int kDepthBlock = 512;

// Widens the row's next `count` bytes; an odd count gets a zero behind it.
template <bool kSigned>
static inline void widen_row(const uint8_t* a, int count, int16_t* wide) {
  int i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i));
    const __m256i words = kSigned ? _mm256_cvtepi8_epi16(bytes) : _mm256_cvtepu8_epi16(bytes);
    _mm256_store_si256(reinterpret_cast<__m256i*>(wide + i), words);
  }
  for (; i < count; ++i) wide[i] = kSigned ? static_cast<int16_t>(static_cast<int8_t>(a[i])) : a[i];
  if (count % 2) wide[count] = 0;
}

template <int MR, int NV, OutKind kOut>
static inline OCTAVO_INLINE void store_tile(const __m256i (&acc)[MR][NV], const GemmArgs& g,
                                            int row0) {
  constexpr ptrdiff_t kSize = kOut == OutKind::kU8 || kOut == OutKind::kS8 ? 1 : 4;
  unroll<MR>([&](auto r) OCTAVO_INLINE {
    char* out = static_cast<char*>(g.out) + (row0 + r) * g.out_stride;
    unroll<NV>([&](auto v) OCTAVO_INLINE {
      store_lanes8<kOut>(acc[r][v], *g.epilogue, g.m0 + row0 + r, g.n0 + v * 8, out + v * 8 * kSize,
                         g.n - v * 8);
    });
  });
}

// Register budget (16 ymm): MR * NV <= 12 accumulators, NV vectors of B, 1 broadcast of A, 1
// product.
template <int MR, int NV, bool kSigned>
__attribute__((noinline)) void gemm_rows(const GemmArgs& g, int row0, OutKind kind) {
  alignas(32) int16_t wide[MR][kDepthBlock];
  __m256i acc[MR][NV];
  unroll<NV>([&](auto v) OCTAVO_INLINE {
    const __m256i init = load_ints8(g.epilogue->acc_init + g.n0 + v * 8, lane_mask8(g.n - v * 8));
    unroll<MR>([&](auto r) OCTAVO_INLINE { acc[r][v] = init; });
  });
  const int8_t* b = g.b;
  const ptrdiff_t b_stride = g.b_stride;
  for (int t = 0; t < g.taps; ++t) {
    const uint8_t* a = g.a + g.tap[t] + row0 * g.a_stride;
    for (int k0 = 0; k0 < g.k; k0 += kDepthBlock) {
      const int count = g.k - k0 < kDepthBlock ? g.k - k0 : kDepthBlock;
      for (int r = 0; r < MR; ++r) widen_row<kSigned>(a + r * g.a_stride + k0, count, wide[r]);
      for (int k = 0; k < count; k += 2, b += b_stride) {
        __m256i vb[NV];
        unroll<NV>([&](auto v) OCTAVO_INLINE {
          vb[v] =
              _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b + v * 16)));
        });
        unroll<MR>([&](auto r) OCTAVO_INLINE {
          int32_t pair;
          std::memcpy(&pair, &wide[r][k], 4);
          const __m256i va = _mm256_set1_epi32(pair);
          unroll<NV>([&](auto v) OCTAVO_INLINE {
            acc[r][v] = _mm256_add_epi32(acc[r][v], _mm256_madd_epi16(va, vb[v]));
          });
        });
      }
    }
  }
  switch (kind) {
    case OutKind::kI32:
      return store_tile<MR, NV, OutKind::kI32>(acc, g, row0);
    case OutKind::kU8:
      return store_tile<MR, NV, OutKind::kU8>(acc, g, row0);
    case OutKind::kS8:
      return store_tile<MR, NV, OutKind::kS8>(acc, g, row0);
    case OutKind::kF32:
      return store_tile<MR, NV, OutKind::kF32>(acc, g, row0);
  }
}

template <int NV, bool kSigned, int MR, int... Rest>
static inline void gemm_split(const GemmArgs& g, int row0, OutKind kind) {
  for (; g.m - row0 >= MR; row0 += MR) gemm_rows<MR, NV, kSigned>(g, row0, kind);
  if constexpr (sizeof...(Rest) > 0) gemm_split<NV, kSigned, Rest...>(g, row0, kind);
}

template <bool kSigned, OutKind kOut>
void gemm_tile(const GemmArgs* g) {
  if (g->n > 8) {
    gemm_split<2, kSigned, 6, 5, 4, 3, 2, 1>(*g, 0, kOut);
  } else {
    gemm_split<1, kSigned, 6, 3, 2, 1>(*g, 0, kOut);
  }
}

constexpr GemmKernel gemm_row(const char* name) {
  return {name,
          {{gemm_tile<false, OutKind::kI32>, gemm_tile<false, OutKind::kU8>,
            gemm_tile<false, OutKind::kS8>, gemm_tile<false, OutKind::kF32>},
           {gemm_tile<true, OutKind::kI32>, gemm_tile<true, OutKind::kU8>,
            gemm_tile<true, OutKind::kS8>, gemm_tile<true, OutKind::kF32>}},
          {16, 2, 8},
          6,
          16,
          2,
          0,
          0,
          0};
}

}  // namespace
}  // namespace octavo
