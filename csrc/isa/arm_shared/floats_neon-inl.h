// 4 floats under the names that kernels for vectors of any width use (isa/vector_shared).
#pragma once

#include <arm_neon.h>

#include "isa/shared/part_word-inl.h"

namespace octavo {
namespace {

struct Floats128 {
  using Vec = float32x4_t;
  static constexpr int kCount = 4;

  static inline Vec set(float x) { return vdupq_n_f32(x); }
  // The first `count` (1 .. kCount); the others load as zeros.
  static inline Vec load(const float* p, int count) {
    if (count == kCount) return vld1q_f32(p);
    const Vec none = vdupq_n_f32(0.0f);
    if (count == 1) return vld1q_lane_f32(p, none, 0);
    const Vec two = vcombine_f32(vld1_f32(p), vget_low_f32(none));
    return count == 2 ? two : vld1q_lane_f32(p + 2, two, 2);
  }
  static inline void store(float* p, Vec v, int count) {
    if (count == kCount) {
      vst1q_f32(p, v);
      return;
    }
    if (count == 1) {
      vst1q_lane_f32(p, v, 0);
      return;
    }
    vst1_f32(p, vget_low_f32(v));
    if (count == 3) vst1q_lane_f32(p + 2, v, 2);
  }
  static inline Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
  static inline Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
  static inline Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
  static inline Vec div(Vec a, Vec b) { return vdivq_f32(a, b); }
  // a * b + c, rounded once.
  static inline Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
  // Where one is NaN, or both are zeros: the second, as on x86. (FMIN gives NaN or -0 there.)
  static inline Vec min(Vec a, Vec b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
  static inline Vec max(Vec a, Vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
  static inline Vec round(Vec v) { return vrndnq_f32(v); }  // half to even
  // The first `count` bytes as floats.
  static inline Vec from_bytes(const uint8_t* p, int count) {
    const uint64_t word = count == kCount ? load_word<uint32_t>(p) : load_part_word(p, count);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(word)))));
  }
  // 4 * kCount bytes: 1 where a equals b, else 0.
  static inline void store_equal(uint8_t* p, const Vec (&a)[4], const Vec (&b)[4]) {
    const uint16x8_t low = lower_halves(vceqq_f32(a[0], b[0]), vceqq_f32(a[1], b[1]));
    const uint16x8_t high = lower_halves(vceqq_f32(a[2], b[2]), vceqq_f32(a[3], b[3]));
    const uint8x16_t bytes = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
    vst1q_u8(p, vandq_u8(bytes, vdupq_n_u8(1)));
  }
  // The same for the first `count` lanes of one vector.
  static inline void store_equal(uint8_t* p, Vec a, Vec b, int count) {
    const uint16x8_t halves = vcombine_u16(vmovn_u32(vceqq_f32(a, b)), vdup_n_u16(0));
    const uint64_t word = vget_lane_u64(vreinterpret_u64_u8(vmovn_u16(halves)), 0);
    store_part_word(p, word & 0x01010101u, count);
  }
  // 2 to the power of the integer in the lowest 9 bits.
  static inline Vec power_of_two(Vec v) {
    const uint32x4_t exponent = vshlq_n_u32(vreinterpretq_u32_f32(v), 23);
    return vreinterpretq_f32_u32(vaddq_u32(exponent, vdupq_n_u32(0x3f800000)));
  }

 private:
  static inline uint16x8_t lower_halves(uint32x4_t a, uint32x4_t b) {
    return vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
  }
};

}  // namespace
}  // namespace octavo
