// GEMM tiles with vpdpbusd on 512-bit vectors.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/epilogue_registers_avx512-inl.h"

namespace octavo {
namespace {

static inline int32_t load4(const uint8_t* p) {
  int32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

static inline int32_t load_tail(const uint8_t* p, int bytes) {
  int32_t value = 0;
  std::memcpy(&value, p, bytes);
  return value;
}

// vpdpbusd takes its first operand unsigned, so int8 activations are offset by 128
// (GemmKernel::a_offset).
template <bool kSigned>
static inline __m512i broadcast(int32_t four) {
  const __m512i a = _mm512_set1_epi32(four);
  return kSigned ? _mm512_xor_si512(a, _mm512_set1_epi32(static_cast<int32_t>(0x80808080u))) : a;
}

// One step of 4 k: A from `a4(row)`, B from b[0 .. NV * 64).
template <int MR, int NV, bool kSigned, typename LoadA>
static inline OCTAVO_INLINE void step(__m512i (&acc)[MR][NV], const int8_t* b, const LoadA& a4) {
  __m512i vb[NV];
  unroll<NV>([&](auto v) OCTAVO_INLINE { vb[v] = _mm512_loadu_si512(b + v * 64); });
  unroll<MR>([&](auto r) OCTAVO_INLINE {
    const __m512i va = broadcast<kSigned>(a4(r));
    unroll<NV>([&](auto v)
                   OCTAVO_INLINE { acc[r][v] = _mm512_dpbusd_epi32(acc[r][v], va, vb[v]); });
  });
}

// Register budget (32 zmm): MR * NV <= 24 accumulators, NV vectors of B, 1 broadcast of A.
//
// Rows are addressed from every third one, so that base + {0, 1, 2} * stride needs no pointer per
// row.
template <int MR, int NV, bool kSigned>
__attribute__((noinline)) void gemm_rows(const GemmArgs& g, int row0) {
  constexpr int kBases = (MR + 2) / 3;
  __m512i acc[MR][NV];
  unroll<NV>([&](auto v) OCTAVO_INLINE {
    const __m512i init = load_ints(g.epilogue->acc_init + g.n0 + v * 16, lane_mask(g.n - v * 16));
    unroll<MR>([&](auto r) OCTAVO_INLINE { acc[r][v] = init; });
  });
  const int8_t* b = g.b;
  const ptrdiff_t stride = g.a_stride, b_stride = g.b_stride;
  for (int t = 0; t < g.taps; ++t) {
    const uint8_t* base[kBases];
    unroll<kBases>([&](auto i)
                       OCTAVO_INLINE { base[i] = g.a + g.tap[t] + (row0 + 3 * i) * stride; });
    int k = g.k;
    for (; k >= 4; k -= 4, b += b_stride) {
      step<MR, NV, kSigned>(
          acc, b, [&](auto r) OCTAVO_INLINE { return load4(base[r / 3] + r % 3 * stride); });
      unroll<kBases>([&](auto i) OCTAVO_INLINE { base[i] += 4; });
    }
    if (k > 0) {
      step<MR, NV, kSigned>(
          acc, b, [&](auto r) OCTAVO_INLINE { return load_tail(base[r / 3] + r % 3 * stride, k); });
      b += b_stride;
    }
  }
  store_accumulators<MR, NV>(acc, g, row0);
}

// Cuts the tile's rows into the row counts that were compiled, largest first.
template <int NV, bool kSigned, int MR, int... Rest>
static inline void gemm_split(const GemmArgs& g, int row0) {
  for (; g.m - row0 >= MR; row0 += MR) gemm_rows<MR, NV, kSigned>(g, row0);
  if constexpr (sizeof...(Rest) > 0) gemm_split<NV, kSigned, Rest...>(g, row0);
}

// Panels are at least n columns wide, rounded up to 16, and a kernel reads no vector past that.
template <int NV, bool kSigned>
void gemm_tile(const GemmArgs* g) {
  if constexpr (NV == 4) {
    if (g->n > 48) {
      gemm_split<4, kSigned, 6, 5, 4, 3, 2, 1>(*g, 0);
    } else {
      gemm_split<3, kSigned, 6, 3, 2, 1>(*g, 0);
    }
  } else if constexpr (NV == 2) {
    gemm_split<2, kSigned, 12, 6, 3, 2, 1>(*g, 0);
  } else {
    gemm_split<1, kSigned, 24, 12, 6, 3, 1>(*g, 0);
  }
}

template <int MR, int NV>
constexpr GemmKernel gemm_row(const char* name) {
  GemmKernel row{};
  row.name = name;
  row.fn[0] = gemm_tile<NV, false>;
  row.fn[1] = gemm_tile<NV, true>;
  row.format = {64, 4, 16};
  row.mr = row.m_step = MR;
  row.nr = NV * 16;
  row.k_step = 4;
  row.min_m = 1;
  row.max_n = row.nr;
  row.a_offset[1] = 128;
  return row;
}

}  // namespace
}  // namespace octavo
