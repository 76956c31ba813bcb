// GEMM tiles with SMMLA and USMMLA: two rows by two columns by 8 k at a time.
#pragma once

#include <arm_neon.h>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/arm_shared/gemm_neon-inl.h"

namespace octavo {
namespace {

// acc + [a0 . b0, a0 . b1, a1 . b0, a1 . b1] for two rows of A and two columns of B, 8 k of each.
// Takes activations of either type as they are.
template <bool kSigned>
static inline OCTAVO_INLINE int32x4_t multiply_2x2(int32x4_t acc, uint8x16_t a, int8x16_t b) {
  if constexpr (kSigned) return vmmlaq_s32(acc, vreinterpretq_s8_u8(a), b);
  return vusmmlaq_s32(acc, a, b);
}

static inline OCTAVO_INLINE int32x4_t low_halves(int32x4_t a, int32x4_t b) {
  return vreinterpretq_s32_s64(vtrn1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}
static inline OCTAVO_INLINE int32x4_t high_halves(int32x4_t a, int32x4_t b) {
  return vreinterpretq_s32_s64(vtrn2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

// Tiles of 4 * NV columns, which are 2 * NV pairs. 16 columns are a whole panel, whose k groups lie
// 128 bytes apart. A last row without a partner has zeros for one.
template <int NV, bool kSigned>
struct MatrixTile {
  static constexpr int kPairs = 2 * NV;

  // One k group, 8 k, of MP pairs of rows; B from b[0 .. NV * 32).
  template <int MP>
  static inline OCTAVO_INLINE void step(int32x4_t (&acc)[MP][kPairs], const uint8x16_t (&a)[MP],
                                        const int8_t* b) {
    unroll<kPairs>([&](auto c) OCTAVO_INLINE {
      keep_loads_apart();
      const int8x16_t vb = vld1q_s8(b + c * 16);
      unroll<MP>([&](auto p)
                     OCTAVO_INLINE { acc[p][c] = multiply_2x2<kSigned>(acc[p][c], a[p], vb); });
    });
  }

  // 8 bytes of each row in pairs.
  template <int MR>
  static inline OCTAVO_INLINE void load_pairs(const uint8_t* (&row)[MR],
                                              uint8x16_t (&pairs)[(MR + 1) / 2]) {
    unroll<(MR + 1) / 2>([&](auto p) OCTAVO_INLINE {
      constexpr int r = 2 * kIndex<decltype(p)>;
      const uint8x8_t first = vld1_u8(row[r]);
      row[r] += 8;
      if constexpr (r + 1 < MR) {
        uint8x8_t second = vld1_u8(row[r + 1]);
        // Through a register: loading it into a lane has a longer latency (Neoverse: 8 cycles).
        __asm__("" : "+w"(second));
        pairs[p] = vcombine_u8(first, second);
        row[r + 1] += 8;
      } else {
        pairs[p] = vcombine_u8(first, vcreate_u8(0));
      }
    });
  }

  // Register budget (32): MR / 2 * kPairs <= 24 accumulators, MR / 2 vectors of A, 1 of B.
  // 8 k take MR + kPairs loads, MR / 2 permutations and MR / 2 * kPairs products.
  template <int MR>
  __attribute__((noinline)) static void rows(const GemmArgs& g, int row0) {
    constexpr int MP = (MR + 1) / 2;
    int32x4_t acc[MP][kPairs], init[NV];
    load_acc_init<NV>(g, init);
    unroll<MP>([&](auto p) OCTAVO_INLINE {
      unroll<NV>([&](auto v) OCTAVO_INLINE {
        acc[p][2 * v] = low_halves(init[v], init[v]);
        acc[p][2 * v + 1] = high_halves(init[v], init[v]);
      });
    });
    const ptrdiff_t b_stride = NV == 4 ? 128 : g.b_stride;
    const int8_t* b = g.b;
    for (int t = 0; t < g.taps; ++t) {
      const uint8_t* row[MR];
      row[0] = g.a + g.tap[t] + row0 * g.a_stride;
      unroll<MR - 1>([&](auto r) OCTAVO_INLINE { row[r + 1] = row[r] + g.a_stride; });
      uint8x16_t pairs[MP];
      int k = g.k;
      for (; k >= 8; k -= 8, b += b_stride) {
        load_pairs<MR>(row, pairs);
        step<MP>(acc, pairs, b);
      }
      if (k > 0) {
        unroll<MP>([&](auto p) OCTAVO_INLINE {
          constexpr int r = 2 * kIndex<decltype(p)>;
          const uint64_t second = r + 1 < MR ? load_bytes8(row[r + 1 < MR ? r + 1 : r], k) : 0;
          pairs[p] = vcombine_u8(vcreate_u8(load_bytes8(row[r], k)), vcreate_u8(second));
        });
        step<MP>(acc, pairs, b);
        b += b_stride;
      }
    }
    int32x4_t sums[MR][NV];
    unroll<MR>([&](auto r) OCTAVO_INLINE {
      unroll<NV>([&](auto v) OCTAVO_INLINE {
        const int32x4_t left = acc[r / 2][2 * v], right = acc[r / 2][2 * v + 1];
        sums[r][v] = r % 2 ? high_halves(left, right) : low_halves(left, right);
      });
    });
    store_accumulators_neon<MR, NV>(sums, g, row0);
  }
};

// Panels are at least n columns wide, rounded up to 8, and a kernel reads no vector past that.
template <bool kWide, bool kSigned>
void gemm_tile(const GemmArgs* g) {
  if (kWide && g->n > 8) {
    gemm_split<MatrixTile<4, kSigned>, 6, 5, 4, 3, 2, 1>(*g, 0);
  } else {
    gemm_split<MatrixTile<2, kSigned>, 8, 6, 4, 2, 1>(*g, 0);
  }
}

template <bool kWide>
constexpr GemmKernel gemm_row(const char* name) {
  GemmKernel row{};
  row.name = name;
  row.fn[0] = gemm_tile<kWide, false>;
  row.fn[1] = gemm_tile<kWide, true>;
  row.format = {16, 8, 8};
  row.mr = row.m_step = kWide ? 6 : 8;
  row.nr = kWide ? 16 : 8;
  row.k_step = 8;
  row.min_m = 1;
  row.max_n = row.nr;
  return row;
}

// The arithmetic roof of SMMLA.
//
// Register budget (32): 16 accumulators, 2 operands.
int64_t peak(int64_t steps) {
  constexpr int kChains = 16;
  int32x4_t acc[kChains];
  const uint8x16_t a = vdupq_n_u8(5);
  const int8x16_t b = vdupq_n_s8(-3);
  unroll<kChains>([&](auto i) OCTAVO_INLINE { acc[i] = vdupq_n_s32(0); });
  for (int64_t s = 0; s < steps; ++s) {
    unroll<kChains>([&](auto i) OCTAVO_INLINE { acc[i] = multiply_2x2<false>(acc[i], a, b); });
    unroll<kChains>([&](auto i) OCTAVO_INLINE {
      int32x4_t& sum = acc[i];
      __asm__ volatile("" : "+w"(sum));  // keeps every product
    });
  }
  return steps * kChains * 32;
}

}  // namespace
}  // namespace octavo
