// Softmax with NEON: the vectors that softmax-inl.h computes on.
#pragma once

#include <arm_neon.h>

#include "abi/unroll.h"
#include "isa/arm_shared/normalize_neon-inl.h"
#include "isa/vector_shared/softmax-inl.h"

namespace octavo {
namespace {

// The 16 floats of a factor are kept as four tables, one for each of their bytes, so that one tbl
// looks up a byte of 16 results; interleaving them makes the floats.
struct FloatTable128 {
  inline OCTAVO_INLINE explicit FloatTable128(const float* entries)
      : bytes(vld4q_u8(reinterpret_cast<const uint8_t*>(entries))) {}

  inline OCTAVO_INLINE void lookup(uint8x16_t index, float32x4_t (&x)[4]) const {
    uint8x16_t plane[4];
    unroll<4>([&](auto b) OCTAVO_INLINE { plane[b] = vqtbl1q_u8(bytes.val[b], index); });
    const uint8x16_t low[2] = {vzip1q_u8(plane[0], plane[1]), vzip2q_u8(plane[0], plane[1])};
    const uint8x16_t high[2] = {vzip1q_u8(plane[2], plane[3]), vzip2q_u8(plane[2], plane[3])};
    unroll<2>([&](auto i) OCTAVO_INLINE {
      x[2 * i] = vreinterpretq_f32_u8(Bytes128::unpack_lo16(low[i], high[i]));
      x[2 * i + 1] = vreinterpretq_f32_u8(Bytes128::unpack_hi16(low[i], high[i]));
    });
  }
  uint8x16x4_t bytes;
};

struct SoftmaxBytes128 : FloatBytes128 {
  SoftmaxBytes128(const float* high, const float* low) : high(high), low(low) {}

  // Of distances, each in a dword. Registers: 8 tables, 4 to 8 floats of each factor.
  inline OCTAVO_INLINE void exponentials(Vec distances, Vec (&exps)[4]) const {
    Floats near[4], far[4];
    low.lookup(both(distances, set8(15)), near);
    high.lookup(vshrq_n_u8(distances, 4), far);
    unroll<4>([&](auto j) OCTAVO_INLINE { exps[j] = round(mul(far[j], near[j])); });
  }
  static inline uint8_t largest(Vec v) { return vmaxvq_u8(v); }
  // 64-bit sums of 32-bit values.
  static inline Vec accumulate(Vec sum, Vec v) {
    return vreinterpretq_u8_u64(vpadalq_u32(vreinterpretq_u64_u8(sum), u32(v)));
  }
  static inline int64_t total64(Vec v) {
    return static_cast<int64_t>(vaddvq_u64(vreinterpretq_u64_u8(v)));
  }

  FloatTable128 high, low;
};

}  // namespace
}  // namespace octavo
