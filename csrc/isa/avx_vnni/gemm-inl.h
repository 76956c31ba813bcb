// GEMM tiles with vpdpbusd on 256-bit vectors.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/epilogue_registers_avx2-inl.h"

namespace octavo {
namespace {

// acc + a . b, four bytes to a lane; a is unsigned. Exact: the sum does not saturate.
static inline OCTAVO_INLINE __m256i dot4(__m256i acc, __m256i a, __m256i b) {
#if defined(__AVXVNNI__)
  return _mm256_dpbusd_avx_epi32(acc, a, b);
#else
  return _mm256_dpbusd_epi32(acc, a, b);  // OCTAVO_AVX_VNNI_AS_EVEX
#endif
}

// int8 activations are offset by 128 (GemmKernel::a_offset), as a is unsigned.
template <bool kSigned>
static inline __m256i broadcast4(int32_t four) {
  const __m256i a = _mm256_set1_epi32(four);
  return kSigned ? _mm256_xor_si256(a, _mm256_set1_epi32(static_cast<int32_t>(0x80808080u))) : a;
}

// One step of 4 k: A from `a4(row)`, B from b[0 .. NV * 32).
template <int MR, int NV, bool kSigned, typename LoadA>
static inline OCTAVO_INLINE void step(__m256i (&acc)[MR][NV], const int8_t* b, const LoadA& a4) {
  __m256i vb[NV];
  unroll<NV>([&](auto v) OCTAVO_INLINE {
    vb[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + v * 32));
  });
  unroll<MR>([&](auto r) OCTAVO_INLINE {
    const __m256i va = broadcast4<kSigned>(a4(r));
    unroll<NV>([&](auto v) OCTAVO_INLINE { acc[r][v] = dot4(acc[r][v], va, vb[v]); });
  });
}

// Register budget (16 ymm): MR * NV <= 12 accumulators, NV vectors of B, 1 broadcast of A; int8
// activations take their offset from memory. Tiles of few rows have several sets of accumulators,
// up to 8 in all, and take as many k groups at a time: vpdpbusd takes 4 to 5 cycles, two start in
// one.
//
// Rows are addressed from every third one, so that base + {0, 1, 2} * stride needs no pointer per
// row.
template <int MR, int NV, bool kSigned>
__attribute__((noinline)) void gemm_rows(const GemmArgs& g, int row0) {
  constexpr int kBases = (MR + 2) / 3;
  constexpr int kSets = MR * NV >= 8 ? 1 : MR * NV >= 4 ? 2 : 4;
  __m256i acc[kSets][MR][NV];
  unroll<NV>([&](auto v) OCTAVO_INLINE {
    const __m256i init = load_ints8(g.epilogue->acc_init + g.n0 + v * 8, lane_mask8(g.n - v * 8));
    unroll<MR>([&](auto r) OCTAVO_INLINE {
      unroll<kSets>([&](auto i)
                        OCTAVO_INLINE { acc[i][r][v] = i == 0 ? init : _mm256_setzero_si256(); });
    });
  });
  const int8_t* b = g.b;
  const ptrdiff_t stride = g.a_stride, b_stride = g.b_stride;
  for (int t = 0; t < g.taps; ++t) {
    const uint8_t* base[kBases];
    unroll<kBases>([&](auto i)
                       OCTAVO_INLINE { base[i] = g.a + g.tap[t] + (row0 + 3 * i) * stride; });
    const auto four = [&](int r, int ahead) OCTAVO_INLINE {
      int32_t bytes;
      std::memcpy(&bytes, base[r / 3] + r % 3 * stride + ahead * 4, 4);
      return bytes;
    };
    const auto advance = [&](int steps) OCTAVO_INLINE {
      unroll<kBases>([&](auto i) OCTAVO_INLINE { base[i] += 4 * steps; });
      b += steps * b_stride;
    };
    int k = g.k;
    for (; k >= 4 * kSets; k -= 4 * kSets, advance(kSets)) {
      unroll<kSets>([&](auto i) OCTAVO_INLINE {
        step<MR, NV, kSigned>(acc[i], b + i * b_stride,
                              [&](auto r) OCTAVO_INLINE { return four(r, i); });
      });
    }
    for (; kSets > 1 && k >= 4; k -= 4, advance(1)) {
      step<MR, NV, kSigned>(acc[0], b, [&](auto r) OCTAVO_INLINE { return four(r, 0); });
    }
    if (k > 0) {
      step<MR, NV, kSigned>(acc[0], b, [&](auto r) OCTAVO_INLINE {
        int32_t rest = 0;
        std::memcpy(&rest, base[r / 3] + r % 3 * stride, k);
        return rest;
      });
      b += b_stride;
    }
  }
  unroll<kSets - 1>([&](auto i) OCTAVO_INLINE {
    unroll<MR>([&](auto r) OCTAVO_INLINE {
      unroll<NV>([&](auto v) OCTAVO_INLINE {
        acc[0][r][v] = _mm256_add_epi32(acc[0][r][v], acc[i + 1][r][v]);
      });
    });
  });
  store_accumulators8<MR, NV>(acc[0], g, row0);
}

// Cuts the tile's rows into the row counts that were compiled, largest first.
template <int NV, bool kSigned, int MR, int... Rest>
static inline void gemm_split(const GemmArgs& g, int row0) {
  for (; g.m - row0 >= MR; row0 += MR) gemm_rows<MR, NV, kSigned>(g, row0);
  if constexpr (sizeof...(Rest) > 0) gemm_split<NV, kSigned, Rest...>(g, row0);
}

// Panels are at least n columns wide, rounded up to 8, and a kernel reads no vector past that.
template <bool kWide, bool kSigned>
void gemm_tile(const GemmArgs* g) {
  if (kWide && g->n > 8) {
    gemm_split<2, kSigned, 6, 5, 4, 3, 2, 1>(*g, 0);
  } else {
    gemm_split<1, kSigned, 12, 6, 3, 2, 1>(*g, 0);
  }
}

template <bool kWide>
constexpr GemmKernel gemm_row(const char* name) {
  GemmKernel row{};
  row.name = name;
  row.fn[0] = gemm_tile<kWide, false>;
  row.fn[1] = gemm_tile<kWide, true>;
  row.format = {16, 4, 8};
  row.mr = row.m_step = kWide ? 6 : 12;
  row.nr = kWide ? 16 : 8;
  row.k_step = 4;
  row.min_m = 1;
  row.max_n = row.nr;
  row.a_offset[1] = 128;
  return row;
}

}  // namespace
}  // namespace octavo
