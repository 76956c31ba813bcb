// What the window kernels need of NEON (vector_shared/window_vector-inl.h), with the dot products
// that the flags allow.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/arm_shared/epilogue_neon-inl.h"
#include "isa/vector_shared/window_vector-inl.h"

namespace octavo {
namespace {

struct WindowNeon {
  using Vec = uint8x16_t;
  using Floats = float32x4_t;
  static constexpr int kBytes = 16;
  static constexpr bool kFreeMoves = false;  // from register to register
  using Part = WindowNeon;

  static inline int32x4_t ints(Vec v) { return vreinterpretq_s32_u8(v); }
  static inline int16x8_t shorts(Vec v) { return vreinterpretq_s16_u8(v); }
  static inline Vec vec(int32x4_t v) { return vreinterpretq_u8_s32(v); }
  static inline Vec vec(int16x8_t v) { return vreinterpretq_u8_s16(v); }

  static inline Vec zero() { return vdupq_n_u8(0); }
  static inline Vec set8(int x) { return vdupq_n_u8(static_cast<uint8_t>(x)); }
  static inline Vec set16(int x) { return vec(vdupq_n_s16(static_cast<int16_t>(x))); }
  static inline Vec set32(int x) { return vec(vdupq_n_s32(x)); }
  static inline Floats set_float(float x) { return vdupq_n_f32(x); }
  static inline Vec load(const void* p) { return vld1q_u8(static_cast<const uint8_t*>(p)); }
  static inline Vec load_first(const void* p, int n) {
    if (n >= 16) return load(p);
    const FirstBytes first = load_first_bytes(p, n);
    return vcombine_u8(vcreate_u8(first.low), vcreate_u8(first.high));
  }
  static inline void store(void* p, Vec v) { vst1q_u8(static_cast<uint8_t*>(p), v); }
  static inline void store_first(void* p, Vec v, int n) {
    if (n >= 16) return store(p, v);
    uint8_t bytes[16];
    store(bytes, v);
    std::memcpy(p, bytes, n);
  }
  static inline Vec load_lanes(const void* p, ptrdiff_t) { return load(p); }
  static inline Vec broadcast16(const void* p) { return load(p); }
  static inline Vec broadcast(Vec v) { return v; }
  static inline Vec pick_bytes(Vec v, Vec pick) { return vqtbl1q_u8(v, pick); }
  static inline Vec bit_xor(Vec a, Vec b) { return veorq_u8(a, b); }
  static inline Vec low8(Vec a, Vec b) { return vzip1q_u8(a, b); }
  static inline Vec high8(Vec a, Vec b) { return vzip2q_u8(a, b); }
  static inline Vec low16(Vec a, Vec b) { return vec(vzip1q_s16(shorts(a), shorts(b))); }
  static inline Vec high16(Vec a, Vec b) { return vec(vzip2q_s16(shorts(a), shorts(b))); }
  static inline Vec sub32(Vec a, Vec b) { return vec(vsubq_s32(ints(a), ints(b))); }
  static inline Floats to_float(Vec v) { return vcvtq_f32_s32(ints(v)); }
  static inline Vec to_int(Floats x) { return vec(vcvtnq_s32_f32(x)); }
  // The conversion saturates, and only NaN, which it makes 0, needs the lower bound.
  static inline Floats guard(float lo, float) { return set_float(lo); }
  static inline Floats guarded(Floats lo, Floats x) { return vmaxnmq_f32(x, lo); }
  static inline Floats as_floats(Vec v) { return vreinterpretq_f32_u8(v); }
  static inline Vec as_ints(Floats x) { return vreinterpretq_u8_f32(x); }
  static inline Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
  static inline Floats mul(Floats a, Floats b) { return vmulq_f32(a, b); }
  // b where the two compare neither way, as on x86: NaN passes through, and so does -0.
  static inline Floats min(Floats a, Floats b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
  static inline Floats max(Floats a, Floats b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
  static inline Vec add_saturating16(Vec a, Vec b) { return vec(vqaddq_s16(shorts(a), shorts(b))); }
  static inline Vec pack32(Vec a, Vec b) {
    return vec(vqmovn_high_s32(vqmovn_s32(ints(a)), ints(b)));
  }
  static inline Vec pack16(Vec a, Vec b) {
    return vqmovun_high_s16(vqmovun_s16(shorts(a)), shorts(b));
  }
  static inline Vec max8(Vec a, Vec b) { return vmaxq_u8(a, b); }
  static inline Vec min8(Vec a, Vec b) { return vminq_u8(a, b); }
  static inline void order_lanes(Vec (&)[4]) {}
  static inline void split_dwords(Vec v, Vec (&out)[1]) { out[0] = v; }
  static inline int nearest(float x) { return vcvtns_s32_f32(x); }
};

#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr int32_t kWindowOffset[2] = {0, 0};
#else
constexpr int32_t kWindowOffset[2] = {-128, 0};
#endif

// Activations in the type that is multiplied: int8, to which uint8 ones are brought by subtracting
// 128, or both as they are.
template <bool kSigned>
static inline OCTAVO_INLINE uint8x16_t multiplied_type(uint8x16_t v) {
  return kWindowOffset[kSigned] == 0 ? v : veorq_u8(v, vdupq_n_u8(0x80));
}

#if defined(__ARM_FEATURE_DOTPROD)
template <bool kSigned>
struct Dot<WindowNeon, kSigned> : DwordOrder<WindowNeon> {
  using Bytes = Vec;    // four activations to a dword
  using Weights = Vec;  // four weights to a dword

  static inline OCTAVO_INLINE Vec activations(Vec v) { return multiplied_type<kSigned>(v); }
  static inline OCTAVO_INLINE Bytes bytes(Vec v) { return v; }
  static inline OCTAVO_INLINE Weights weights(Vec v) { return v; }
  static constexpr bool kPairs = false;
  template <int Q = 0>
  static inline OCTAVO_INLINE Vec dot(Vec acc, Bytes a, Weights w) {
    const int32x4_t sum = WindowNeon::ints(acc);
    const int8x16_t weights = vreinterpretq_s8_u8(w);
#if defined(__ARM_FEATURE_MATMUL_INT8)
    if constexpr (!kSigned) return WindowNeon::vec(vusdotq_s32(sum, a, weights));
#endif
    return WindowNeon::vec(vdotq_s32(sum, vreinterpretq_s8_u8(a), weights));
  }
};

template <bool kSigned>
struct GroupDot<WindowNeon, kSigned> : Dot<WindowNeon, kSigned> {
  static constexpr bool kArranges = false;
};
#else
// Adds the products of neighbouring pairs of signed bytes, of 4 channels each: of the first 8 bytes
// (H = 0) or the last. A product of two bytes fits 16 bits, and two of them are added in 32.
template <int H>
static inline OCTAVO_INLINE uint8x16_t add_pairs(uint8x16_t acc, uint8x16_t a, uint8x16_t w) {
  const int8x16_t x = vreinterpretq_s8_u8(a), y = vreinterpretq_s8_u8(w);
  const int16x8_t products =
      H == 0 ? vmull_s8(vget_low_s8(x), vget_low_s8(y)) : vmull_high_s8(x, y);
  return WindowNeon::vec(vpadalq_s16(WindowNeon::ints(acc), products));
}

// Two pairs of bytes for each of 8 channels. Multiplying takes either half of it, so nothing needs
// to be interleaved to dwords.
struct NeonPairs {
  uint8x16_t even, odd;
};

template <bool kSigned>
struct Dot<WindowNeon, kSigned> {
  using Vec = uint8x16_t;
  using Dwords = NeonPairs;
  using Bytes = NeonPairs;
  using Weights = NeonPairs;

  template <int H>
  static inline OCTAVO_INLINE void interleave(Vec a, Vec b, Vec c, Vec d, Dwords (&dwords)[2]) {
    join(interleave_bytes<WindowNeon, H>(a, c), interleave_bytes<WindowNeon, H>(b, d), dwords);
  }
  static inline OCTAVO_INLINE void join(Vec even, Vec odd, Dwords (&dwords)[2]) {
    dwords[0] = dwords[1] = {even, odd};
  }
  static inline OCTAVO_INLINE Vec activations(Vec v) { return multiplied_type<kSigned>(v); }
  static inline OCTAVO_INLINE Bytes bytes(Dwords v) { return v; }
  static inline OCTAVO_INLINE Weights weights(Dwords v) { return v; }
  static constexpr bool kPairs = true;
  template <int Q>
  static inline OCTAVO_INLINE Vec dot(Vec acc, Bytes a, Weights w) {
    return dot_odd<Q>(dot_even<Q>(acc, a, w), a, w);
  }
  template <int Q>
  static inline OCTAVO_INLINE Vec dot_even(Vec acc, Bytes a, Weights w) {
    return add_pairs<Q % 2>(acc, a.even, w.even);
  }
  template <int Q>
  static inline OCTAVO_INLINE Vec dot_odd(Vec acc, Bytes a, Weights w) {
    return add_pairs<Q % 2>(acc, a.odd, w.odd);
  }
};

// The first two bytes of all lanes come before the last two, so that both halves of the products
// are pairs of the same four sums.
template <bool kSigned>
struct GroupDot<WindowNeon, kSigned> {
  using Vec = uint8x16_t;
  using Bytes = Vec;
  using Weights = Vec;
  static constexpr bool kArranges = true;

  static inline Vec arrange(Vec v) {
    const int16x8_t pairs = WindowNeon::shorts(v);
    return WindowNeon::vec(vcombine_s16(vget_low_s16(vuzp1q_s16(pairs, pairs)),
                                        vget_low_s16(vuzp2q_s16(pairs, pairs))));
  }
  static inline OCTAVO_INLINE Vec activations(Vec v) { return multiplied_type<kSigned>(v); }
  static inline OCTAVO_INLINE Bytes bytes(Vec v) { return v; }
  static inline OCTAVO_INLINE Weights weights(Vec v) { return arrange(v); }
  static inline OCTAVO_INLINE Vec dot(Vec acc, Bytes a, Weights w) {
    return add_pairs<1>(add_pairs<0>(acc, a, w), a, w);
  }
};
#endif

static void store_window_rows(const int32_t* acc, ptrdiff_t acc_stride, const GemmArgs& g,
                              int rows) {
  store_rows_neon(acc, acc_stride, g, 0, rows);
}

}  // namespace
}  // namespace octavo
