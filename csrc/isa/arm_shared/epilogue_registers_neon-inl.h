// From a kernel's accumulators to outputs with NEON: 8-bit ones without a detour through memory.
#pragma once

#include <arm_neon.h>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/arm_shared/epilogue_neon-inl.h"

namespace octavo {
namespace {

// Whether store_tile_bytes() takes the outputs of a call; store_rows_neon() takes any.
template <int NV>
static inline bool stores_tile_bytes(const GemmArgs& g) {
  const Epilogue& e = *g.epilogue;
  return NV % 2 == 0 && (g.kind == OutKind::kU8 || g.kind == OutKind::kS8) && e.stays_int32 &&
         g.n == NV * 4 && !e.row_zero && !e.w_zero && !e.row_scale && !e.add;
}

// MR rows of NV vectors, as bytes of either type: int8 ones are uint8 ones less 128.
//
// Register budget (32): MR * NV <= 24 accumulators, 4 bounds, 4 temporaries; bias and mult are read
// from memory for each row where they find no register.
template <int MR, int NV>
static inline OCTAVO_INLINE void store_tile_bytes(const int32x4_t (&acc)[MR][NV], const GemmArgs& g,
                                                  int row0) {
  static_assert(NV == 2 || NV == 4);
  const Epilogue& e = *g.epilogue;
  const int offset = g.kind == OutKind::kS8 ? 128 : 0;
  const int zero = e.out_zero + offset;
  const int16x8_t zeros = vdupq_n_s16(static_cast<int16_t>(zero));
  const uint8x16_t lo = vdupq_n_u8(static_cast<uint8_t>(static_cast<int>(e.lo) + zero));
  const uint8x16_t hi = vdupq_n_u8(static_cast<uint8_t>(static_cast<int>(e.hi) + zero));
  const uint8x16_t flip = vdupq_n_u8(static_cast<uint8_t>(offset));
  const float *bias = e.bias + g.n0, *mult = e.mult + g.n0;
  uint8_t* out = static_cast<uint8_t*>(g.out) + row0 * g.out_stride;
  unroll<MR>([&](auto r) OCTAVO_INLINE {
    const auto steps = [&](auto v) OCTAVO_INLINE {
      const float32x4_t sums = vaddq_f32(vcvtq_f32_s32(acc[r][v]), vld1q_f32(bias + v * 4));
      return vcvtnq_s32_f32(vmulq_f32(sums, vld1q_f32(mult + v * 4)));
    };
    const int16x8_t low =
        vqaddq_s16(vqmovn_high_s32(vqmovn_s32(steps(Index<0>())), steps(Index<1>())), zeros);
    if constexpr (NV == 2) {
      const uint8x8_t q = vmin_u8(vmax_u8(vqmovun_s16(low), vget_low_u8(lo)), vget_low_u8(hi));
      vst1_u8(out, veor_u8(q, vget_low_u8(flip)));
    } else {
      const int16x8_t high =
          vqaddq_s16(vqmovn_high_s32(vqmovn_s32(steps(Index<2>())), steps(Index<3>())), zeros);
      const uint8x16_t q = vqmovun_high_s16(vqmovun_s16(low), high);
      vst1q_u8(out, veorq_u8(vminq_u8(vmaxq_u8(q, lo), hi), flip));
    }
    out += g.out_stride;
  });
}

// Stores MR rows of a tile from row0 on, whatever their kind; acc_init is included.
template <int MR, int NV>
static inline OCTAVO_INLINE void store_accumulators_neon(const int32x4_t (&acc)[MR][NV],
                                                         const GemmArgs& g, int row0) {
  if constexpr (NV % 2 == 0) {
    if (stores_tile_bytes<NV>(g)) return store_tile_bytes<MR, NV>(acc, g, row0);
  }
  int32_t tile[MR][NV * 4];
  unroll<MR>([&](auto r) OCTAVO_INLINE {
    unroll<NV>([&](auto v) OCTAVO_INLINE { vst1q_s32(&tile[r][v * 4], acc[r][v]); });
  });
  store_rows_neon(tile[0], NV * 4, g, row0, MR);
}

// The first vectors of acc_init that a tile of NV vectors needs; zeros past its columns.
template <int NV>
static inline OCTAVO_INLINE void load_acc_init(const GemmArgs& g, int32x4_t (&init)[NV]) {
  unroll<NV>([&](auto v) OCTAVO_INLINE {
    const int lanes = g.n - v * 4;
    init[v] = lanes > 0 ? load_ints4(g.epilogue->acc_init + g.n0 + v * 4, lanes) : vdupq_n_s32(0);
  });
}

}  // namespace
}  // namespace octavo
