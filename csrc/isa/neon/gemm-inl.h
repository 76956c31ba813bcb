// GEMM tiles with SMULL and SADALP: products of bytes to 16 bits, which hold any of them, added in
// pairs to 32. Exact for every input.
#pragma once

#include <arm_neon.h>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/arm_shared/gemm_neon-inl.h"

namespace octavo {
namespace {

// uint8 activations are offset by -128 (GemmKernel::a_offset), as weights are signed.
template <bool kSigned>
static inline OCTAVO_INLINE int8x8_t signed_bytes(uint8x8_t a) {
  return vreinterpret_s8_u8(kSigned ? a : veor_u8(a, vdup_n_u8(0x80)));
}

// Tiles of 4 * NV columns, each of which has a vector of four partial sums in a row. 8 columns are
// a whole panel, whose k groups lie 64 bytes apart.
template <int NV, bool kSigned>
struct PairwiseTile {
  static constexpr int kColumns = 4 * NV;

  // One k group, 8 k; B from b[0 .. kColumns * 8). Four products are on their way before the first
  // is added, for CPUs that keep the order of instructions.
  template <int MR>
  static inline OCTAVO_INLINE void step(int32x4_t (&acc)[MR][kColumns], const int8x8_t (&a)[MR],
                                        const int8_t* b) {
    constexpr int kBlock = MR >= 4 ? 1 : 4 / MR;
    unroll<kColumns / kBlock>([&](auto block) OCTAVO_INLINE {
      constexpr int kFirst = kIndex<decltype(block)> * kBlock;
      int16x8_t products[kBlock][MR];
      keep_loads_apart();
      unroll<kBlock>([&](auto c) OCTAVO_INLINE {
        const int8x8_t vb = vld1_s8(b + (kFirst + c) * 8);
        unroll<MR>([&](auto r) OCTAVO_INLINE { products[c][r] = vmull_s8(a[r], vb); });
      });
      unroll<kBlock>([&](auto c) OCTAVO_INLINE {
        unroll<MR>([&](auto r) OCTAVO_INLINE {
          acc[r][kFirst + c] = vpadalq_s16(acc[r][kFirst + c], products[c][r]);
        });
      });
    });
  }

  // Register budget (32): MR * kColumns <= 16 accumulators, MR halves of A, up to 4 of B, 4
  // products, 1 for the offset. Larger tiles would save loads, of which there are few, and no
  // arithmetic but that of the offset. 8 k take MR + kColumns loads, MR * kColumns multiplications
  // and as many pairwise additions, and for uint8 MR exclusive ors.
  template <int MR>
  __attribute__((noinline)) static void rows(const GemmArgs& g, int row0) {
    int32x4_t acc[MR][kColumns];
    unroll<MR>([&](auto r) OCTAVO_INLINE {
      unroll<kColumns>([&](auto c) OCTAVO_INLINE { acc[r][c] = vdupq_n_s32(0); });
    });
    const ptrdiff_t b_stride = NV == 2 ? 64 : g.b_stride;
    const int8_t* b = g.b;
    for (int t = 0; t < g.taps; ++t) {
      const uint8_t* row[MR];
      row[0] = g.a + g.tap[t] + row0 * g.a_stride;
      unroll<MR - 1>([&](auto r) OCTAVO_INLINE { row[r + 1] = row[r] + g.a_stride; });
      int8x8_t a[MR];
      int k = g.k;
      for (; k >= 8; k -= 8, b += b_stride) {
        unroll<MR>([&](auto r) OCTAVO_INLINE {
          a[r] = signed_bytes<kSigned>(vld1_u8(row[r]));
          row[r] += 8;
        });
        step<MR>(acc, a, b);
      }
      if (k > 0) {
        // Weights behind the last k are 0, whatever meets them.
        unroll<MR>([&](auto r) OCTAVO_INLINE {
          a[r] = signed_bytes<kSigned>(vcreate_u8(load_bytes8(row[r], k)));
        });
        step<MR>(acc, a, b);
        b += b_stride;
      }
    }
    int32x4_t init[NV], sums[MR][NV];
    load_acc_init<NV>(g, init);
    unroll<MR>([&](auto r) OCTAVO_INLINE {
      unroll<NV>([&](auto v) OCTAVO_INLINE {
        const int32x4_t(&four)[kColumns] = acc[r];
        const int32x4_t left = vpaddq_s32(four[4 * v], four[4 * v + 1]);
        const int32x4_t right = vpaddq_s32(four[4 * v + 2], four[4 * v + 3]);
        sums[r][v] = vaddq_s32(init[v], vpaddq_s32(left, right));
      });
    });
    store_accumulators_neon<MR, NV>(sums, g, row0);
  }
};

// Panels are at least n columns wide, rounded up to 4, and a kernel reads no column past that.
template <bool kWide, bool kSigned>
void gemm_tile(const GemmArgs* g) {
  if (kWide && g->n > 4) {
    gemm_split<PairwiseTile<2, kSigned>, 2, 1>(*g, 0);
  } else {
    gemm_split<PairwiseTile<1, kSigned>, 4, 2, 1>(*g, 0);
  }
}

template <bool kWide>
constexpr GemmKernel gemm_row(const char* name) {
  GemmKernel row{};
  row.name = name;
  row.fn[0] = gemm_tile<kWide, false>;
  row.fn[1] = gemm_tile<kWide, true>;
  row.format = {8, 8, 4};
  row.m_step = kWide ? 2 : 4;
  row.mr = 4;
  row.nr = kWide ? 8 : 4;
  row.k_step = 8;
  row.min_m = 1;
  row.max_n = row.nr;
  row.a_offset[0] = -128;
  return row;
}

// The arithmetic roof of SMULL and SADALP.
//
// Register budget (32): 16 accumulators, 2 operands, products.
int64_t peak(int64_t steps) {
  constexpr int kChains = 16;
  int32x4_t acc[kChains];
  int8x8_t a = vdup_n_s8(5), b = vdup_n_s8(-3);
  unroll<kChains>([&](auto i) OCTAVO_INLINE { acc[i] = vdupq_n_s32(0); });
  for (int64_t s = 0; s < steps; ++s) {
    unroll<kChains>([&](auto i) OCTAVO_INLINE {
      __asm__ volatile("" : "+w"(a), "+w"(b));  // keeps the products from being hoisted
      acc[i] = vpadalq_s16(acc[i], vmull_s8(a, b));
    });
  }
  unroll<kChains>([&](auto i) OCTAVO_INLINE {
    const int32x4_t& sum = acc[i];
    __asm__ volatile("" : : "w"(sum));
  });
  return steps * kChains * 8;
}

}  // namespace
}  // namespace octavo
