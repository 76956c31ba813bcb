// Attention with NEON: the vectors that attention-inl.h computes on.
#pragma once

#include "isa/arm_shared/bytes_neon-inl.h"
#include "isa/arm_shared/floats_wide_neon-inl.h"
#include "isa/vector_shared/attention-inl.h"

namespace octavo {
namespace {

// 16 floats or int32: as many as give a vector of bytes.
//
// Registers of attention_weights: 14 constants, 4 for each of 3 values at a time; sums in memory.
struct AttentionWide : FloatsWide<4> {
  struct Ints {
    int32x4_t part[4];
  };

  template <typename Value>
  static inline OCTAVO_INLINE Ints each_int(const Value& value) {
    Ints v;
    unroll<4>([&](auto i) OCTAVO_INLINE { v.part[i] = value(i); });
    return v;
  }
  static inline OCTAVO_INLINE Ints set_int(int32_t x) {
    return each_int([&](auto) OCTAVO_INLINE { return vdupq_n_s32(x); });
  }
  static inline OCTAVO_INLINE Ints load_ints(const int32_t* p) {
    return each_int([&](auto i) OCTAVO_INLINE { return vld1q_s32(p + 4 * i); });
  }
  // The first `count` (1 .. kCount); the others load as zeros.
  static inline OCTAVO_INLINE Ints load_part(const int32_t* p, int count) {
    if (count == kCount) return load_ints(p);
    alignas(16) int32_t lanes[kCount] = {};
    for (int i = 0; i < count; ++i) lanes[i] = p[i];
    return load_ints(lanes);
  }
  static inline OCTAVO_INLINE Ints first(const Ints& v, int count) {
    const int32x4_t order = {0, 1, 2, 3};
    return each_int([&](auto i) OCTAVO_INLINE {
      const uint32x4_t counts = vcltq_s32(order, vdupq_n_s32(count - 4 * i));
      return vandq_s32(v.part[i], vreinterpretq_s32_u32(counts));
    });
  }
  static inline OCTAVO_INLINE Ints add_int(const Ints& a, const Ints& b) {
    return each_int([&](auto i) OCTAVO_INLINE { return vaddq_s32(a.part[i], b.part[i]); });
  }
  static inline OCTAVO_INLINE Ints sub_int(const Ints& a, const Ints& b) {
    return each_int([&](auto i) OCTAVO_INLINE { return vsubq_s32(a.part[i], b.part[i]); });
  }
  static inline OCTAVO_INLINE Ints max_int(const Ints& a, const Ints& b) {
    return each_int([&](auto i) OCTAVO_INLINE { return vmaxq_s32(a.part[i], b.part[i]); });
  }
  static inline OCTAVO_INLINE int32_t largest(const Ints& v) {
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(v.part[0], v.part[1]), vmaxq_s32(v.part[2], v.part[3])));
  }
  static inline OCTAVO_INLINE int32_t total(const Ints& v) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(v.part[0], v.part[1]), vaddq_s32(v.part[2], v.part[3])));
  }
  static inline OCTAVO_INLINE Vec to_float(const Ints& v) {
    return each([&](auto i) OCTAVO_INLINE { return vcvtq_f32_s32(v.part[i]); });
  }
  static inline OCTAVO_INLINE Ints to_int(const Vec& v) {  // half to even
    return each_int([&](auto i) OCTAVO_INLINE { return vcvtnq_s32_f32(v.part[i]); });
  }
  static inline OCTAVO_INLINE Ints upper_byte(const Ints& v) {
    return each_int([&](auto i) OCTAVO_INLINE { return vshrq_n_s32(v.part[i], 8); });
  }
  // The lowest bytes of the first `count` lanes.
  static inline OCTAVO_INLINE void store_bytes(uint8_t* p, const Ints& v, int count) {
    const auto bytes = [&](int i) OCTAVO_INLINE { return vreinterpretq_u8_s32(v.part[i]); };
    const auto even = [](uint8x16_t a, uint8x16_t b) OCTAVO_INLINE { return vuzp1q_u8(a, b); };
    const uint8x16_t out = even(even(bytes(0), bytes(1)), even(bytes(2), bytes(3)));
    if (count == kCount) {
      Bytes128::store(p, out);
    } else {
      Bytes128::store_part(p, out, count);
    }
  }

  // Where one is NaN: the other. No caller tells zeros apart.
  static inline OCTAVO_INLINE Vec min(const Vec& a, const Vec& b) {
    return each([&](auto i) OCTAVO_INLINE { return vminnmq_f32(a.part[i], b.part[i]); });
  }
  static inline OCTAVO_INLINE Vec max(const Vec& a, const Vec& b) {
    return each([&](auto i) OCTAVO_INLINE { return vmaxnmq_f32(a.part[i], b.part[i]); });
  }
};

constexpr void add_attention_neon(ElementwiseFns& fns) {
  fns.attention_weights = attention_weights_vectors<AttentionWide>;
  fns.attention_output = attention_output_vectors<AttentionWide>;
}

}  // namespace
}  // namespace octavo
