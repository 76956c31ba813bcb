// 16 bytes under the names that kernels for vectors of any width use (isa/vector_shared).
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "isa/shared/part_word-inl.h"

namespace octavo {
namespace {

// One type for all integers, as on x86: operations name the width of their elements.
struct Bytes128 {
  using Vec = uint8x16_t;
  using Floats = float32x4_t;
  static constexpr int kBytes = 16;

  static inline Vec load(const void* p) { return vld1q_u8(static_cast<const uint8_t*>(p)); }
  static inline void store(void* p, Vec v) { vst1q_u8(static_cast<uint8_t*>(p), v); }
  // The first n bytes, 0 < n < 16; the others are 0.
  static inline Vec load_part(const void* p, int n) {
    const uint8_t* bytes = static_cast<const uint8_t*>(p);
    if (n <= 8) return vcombine_u8(vcreate_u8(load_part_word(bytes, n)), vcreate_u8(0));
    const uint64_t high = load_word<uint64_t>(bytes + n - 8) >> (8 * (16 - n));
    return vcombine_u8(vld1_u8(bytes), vcreate_u8(high));
  }
  static inline void store_part(void* p, Vec v, int n) {
    uint8_t* bytes = static_cast<uint8_t*>(p);
    const uint64_t low = vgetq_lane_u64(vreinterpretq_u64_u8(v), 0);
    if (n > 8) {
      const uint64_t high = vgetq_lane_u64(vreinterpretq_u64_u8(v), 1);
      const uint64_t last = low >> (8 * (n - 8)) | high << (8 * (16 - n));
      std::memcpy(bytes, &low, 8);
      std::memcpy(bytes + n - 8, &last, 8);
    } else {
      store_part_word(bytes, low, n);
    }
  }

  static inline Vec zero() { return vdupq_n_u8(0); }
  static inline Vec set8(int x) { return vdupq_n_u8(static_cast<uint8_t>(x)); }
  static inline Vec set16(int x) { return from16(vdupq_n_s16(static_cast<int16_t>(x))); }
  static inline Vec set32(int32_t x) { return from32(vdupq_n_s32(x)); }
  static inline Vec max_u8(Vec a, Vec b) { return vmaxq_u8(a, b); }
  static inline Vec max_s8(Vec a, Vec b) { return from8(vmaxq_s8(s8(a), s8(b))); }
  static inline Vec min_u8(Vec a, Vec b) { return vminq_u8(a, b); }
  static inline Vec min_s8(Vec a, Vec b) { return from8(vminq_s8(s8(a), s8(b))); }
  static inline Vec flip(Vec a, Vec b) { return veorq_u8(a, b); }
  static inline Vec both(Vec a, Vec b) { return vandq_u8(a, b); }
  static inline Vec either(Vec a, Vec b) { return vorrq_u8(a, b); }
  static inline Vec sub8(Vec a, Vec b) { return vsubq_u8(a, b); }
  static inline Vec unpack_lo8(Vec a, Vec b) { return vzip1q_u8(a, b); }
  static inline Vec unpack_hi8(Vec a, Vec b) { return vzip2q_u8(a, b); }
  static inline Vec unpack_lo16(Vec a, Vec b) { return from16(vzip1q_s16(s16(a), s16(b))); }
  static inline Vec unpack_hi16(Vec a, Vec b) { return from16(vzip2q_s16(s16(a), s16(b))); }
  // Modulo 2^16 and 2^32: of signed vectors, compilers may take it that nothing overflows.
  static inline Vec add16(Vec a, Vec b) { return from16(vaddq_u16(u16(a), u16(b))); }
  static inline Vec adds16(Vec a, Vec b) { return from16(vqaddq_s16(s16(a), s16(b))); }
  static inline Vec add32(Vec a, Vec b) { return from32(vaddq_u32(u32(a), u32(b))); }
  static inline Vec sub32(Vec a, Vec b) { return from32(vsubq_u32(u32(a), u32(b))); }
  static inline Vec shift7(Vec a) { return from16(vshrq_n_s16(s16(a), 7)); }
  static inline Vec sign16(Vec a) { return from16(vshrq_n_s16(s16(a), 15)); }
  // Narrower elements, saturated: those of a, then those of b.
  static inline Vec pack32(Vec a, Vec b) {
    return from16(vqmovn_high_s32(vqmovn_s32(s32(a)), s32(b)));
  }
  static inline Vec pack16_u8(Vec a, Vec b) {
    return vqmovun_high_s16(vqmovun_s16(s16(a)), s16(b));
  }
  static inline Vec pack16_s8(Vec a, Vec b) {
    return from8(vqmovn_high_s16(vqmovn_s16(s16(a)), s16(b)));
  }

  static inline Floats set_float(float x) { return vdupq_n_f32(x); }
  static inline Floats to_float(Vec v) { return vcvtq_f32_s32(s32(v)); }
  // Half to even, saturated; NaN gives 0.
  static inline Vec round(Floats x) { return from32(vcvtnq_s32_f32(x)); }
  static inline Floats mul(Floats a, Floats b) { return vmulq_f32(a, b); }

  static inline int8x16_t s8(Vec v) { return vreinterpretq_s8_u8(v); }
  static inline int16x8_t s16(Vec v) { return vreinterpretq_s16_u8(v); }
  static inline uint16x8_t u16(Vec v) { return vreinterpretq_u16_u8(v); }
  static inline int32x4_t s32(Vec v) { return vreinterpretq_s32_u8(v); }
  static inline uint32x4_t u32(Vec v) { return vreinterpretq_u32_u8(v); }
  static inline Vec from8(int8x16_t v) { return vreinterpretq_u8_s8(v); }
  static inline Vec from16(int16x8_t v) { return vreinterpretq_u8_s16(v); }
  static inline Vec from32(int32x4_t v) { return vreinterpretq_u8_s32(v); }
  static inline Vec from16(uint16x8_t v) { return vreinterpretq_u8_u16(v); }
  static inline Vec from32(uint32x4_t v) { return vreinterpretq_u8_u32(v); }
};

}  // namespace
}  // namespace octavo
