// GEMM tiles with SDOT: four products of a lane at a time, a row's four bytes taken from any lane.
#pragma once

#include <arm_neon.h>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/arm_shared/gemm_neon-inl.h"

namespace octavo {
namespace {

// uint8 activations are offset by -128 (GemmKernel::a_offset), as SDOT takes signed bytes.
template <bool kSigned>
static inline OCTAVO_INLINE int8x16_t signed_bytes(uint8x16_t a) {
  return vreinterpretq_s8_u8(kSigned ? a : veorq_u8(a, vdupq_n_u8(0x80)));
}

// Tiles of 4 * NV columns. 16 columns are a whole panel, whose k groups lie 64 bytes apart.
template <int NV, bool kSigned>
struct DotTile {
  // One k group, 4 k: lane kLane of each row's vector, B from b[0 .. NV * 16).
  template <int kLane, int MR>
  static inline OCTAVO_INLINE void step(int32x4_t (&acc)[MR][NV], const int8x16_t (&a)[MR],
                                        const int8_t* b) {
    unroll<NV>([&](auto v) OCTAVO_INLINE {
      keep_loads_apart();
      const int8x16_t vb = vld1q_s8(b + v * 16);
      unroll<MR>([&](auto r)
                     OCTAVO_INLINE { acc[r][v] = vdotq_laneq_s32(acc[r][v], vb, a[r], kLane); });
    });
  }

  // Register budget (32): MR * NV <= 16 accumulators, MR <= 8 vectors of A, B, 1 for the offset.
  // 16 k take MR + 4 * NV loads and 4 * MR * NV dot products, and for uint8 MR exclusive ors. Six
  // rows of 16 columns would save loads and nothing else, and leave clang without a register.
  template <int MR>
  __attribute__((noinline)) static void rows(const GemmArgs& g, int row0) {
    int32x4_t acc[MR][NV], init[NV];
    load_acc_init<NV>(g, init);
    unroll<MR>([&](auto r) OCTAVO_INLINE {
      unroll<NV>([&](auto v) OCTAVO_INLINE { acc[r][v] = init[v]; });
    });
    const ptrdiff_t b_stride = NV == 4 ? 64 : g.b_stride;
    const int8_t* b = g.b;
    for (int t = 0; t < g.taps; ++t) {
      const uint8_t* row[MR];
      row[0] = g.a + g.tap[t] + row0 * g.a_stride;
      unroll<MR - 1>([&](auto r) OCTAVO_INLINE { row[r + 1] = row[r] + g.a_stride; });
      int k = g.k;
      for (; k >= 16; k -= 16, b += 4 * b_stride) {
        int8x16_t a[MR];
        unroll<MR>([&](auto r) OCTAVO_INLINE {
          a[r] = signed_bytes<kSigned>(vld1q_u8(row[r]));
          row[r] += 16;
        });
        unroll<4>([&](auto i)
                      OCTAVO_INLINE { step<kIndex<decltype(i)>, MR>(acc, a, b + i * b_stride); });
      }
      if (k > 0) {
        // Weights behind the last k are 0, whatever meets them.
        int8x16_t a[MR];
        unroll<MR>([&](auto r)
                       OCTAVO_INLINE { a[r] = signed_bytes<kSigned>(load_bytes16(row[r], k)); });
        unroll<4>([&](auto i) OCTAVO_INLINE {
          if (4 * i < k) {
            step<kIndex<decltype(i)>, MR>(acc, a, b);
            b += b_stride;
          }
        });
      }
    }
    store_accumulators_neon<MR, NV>(acc, g, row0);
  }
};

// Panels are at least n columns wide, rounded up to 8, and a kernel reads no vector past that.
template <bool kWide, bool kSigned>
void gemm_tile(const GemmArgs* g) {
  if (kWide && g->n > 8) {
    gemm_split<DotTile<4, kSigned>, 4, 3, 2, 1>(*g, 0);
  } else {
    gemm_split<DotTile<2, kSigned>, 8, 4, 2, 1>(*g, 0);
  }
}

template <bool kWide>
constexpr GemmKernel gemm_row(const char* name) {
  GemmKernel row{};
  row.name = name;
  row.fn[0] = gemm_tile<kWide, false>;
  row.fn[1] = gemm_tile<kWide, true>;
  row.format = {16, 4, 8};
  row.mr = row.m_step = kWide ? 4 : 8;
  row.nr = kWide ? 16 : 8;
  row.k_step = 4;
  row.min_m = 1;
  row.max_n = row.nr;
  row.a_offset[0] = -128;
  return row;
}

// The arithmetic roof of SDOT.
//
// Register budget (32): 16 accumulators, 2 operands.
int64_t peak(int64_t steps) {
  constexpr int kChains = 16;
  int32x4_t acc[kChains];
  const int8x16_t a = vdupq_n_s8(5), b = vdupq_n_s8(-3);
  unroll<kChains>([&](auto i) OCTAVO_INLINE { acc[i] = vdupq_n_s32(0); });
  for (int64_t s = 0; s < steps; ++s) {
    unroll<kChains>([&](auto i) OCTAVO_INLINE { acc[i] = vdotq_s32(acc[i], b, a); });
    unroll<kChains>([&](auto i) OCTAVO_INLINE {
      int32x4_t& sum = acc[i];
      __asm__ volatile("" : "+w"(sum));  // keeps every product
    });
  }
  return steps * kChains * 16;
}

}  // namespace
}  // namespace octavo
