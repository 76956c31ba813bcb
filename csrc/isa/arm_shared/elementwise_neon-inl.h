// Element-wise kernels with NEON; what is not here is isa/shared/elementwise-inl.h compiled for
// ARM.
#pragma once

#include <arm_neon.h>

#include "abi/unroll.h"
#include "isa/arm_shared/attention_neon-inl.h"
#include "isa/arm_shared/cell_neon-inl.h"
#include "isa/arm_shared/embedding_neon-inl.h"
#include "isa/arm_shared/floats_neon-inl.h"
#include "isa/arm_shared/lookup_neon-inl.h"
#include "isa/arm_shared/normalize_neon-inl.h"
#include "isa/arm_shared/pooling_neon-inl.h"
#include "isa/arm_shared/softmax_neon-inl.h"
#include "isa/shared/elementwise-inl.h"
#include "isa/vector_shared/elementwise_bytes-inl.h"
#include "isa/vector_shared/fake_quantize-inl.h"

namespace octavo {
namespace {

// Calls body(first element, count) for 16 elements at a time, count 16, and for the rest of them,
// count 1 to 15.
template <typename Body>
static inline OCTAVO_INLINE void for_each_16(int64_t size, const Body& body) {
  int64_t i = 0;
  for (; i + 16 <= size; i += 16) body(i, Index<16>());
  if (i < size) body(i, static_cast<int>(size - i));
}

// The first `count` (up to 16) floats and bytes. What is not loaded is 0.
static inline OCTAVO_INLINE void load_16(const float* p, int count, float32x4_t (&x)[4]) {
  unroll<4>([&](auto j) OCTAVO_INLINE {
    const int left = count - 4 * j;
    x[j] = left > 0 ? Floats128::load(p + 4 * j, left < 4 ? left : 4) : vdupq_n_f32(0.0f);
  });
}
static inline OCTAVO_INLINE void store_16(float* p, const float32x4_t (&x)[4], int count) {
  unroll<4>([&](auto j) OCTAVO_INLINE {
    const int left = count - 4 * j;
    if (left > 0) Floats128::store(p + 4 * j, x[j], left < 4 ? left : 4);
  });
}
static inline OCTAVO_INLINE uint8x16_t load_16(const uint8_t* p, int count) {
  return count == 16 ? Bytes128::load(p) : Bytes128::load_part(p, count);
}
static inline OCTAVO_INLINE void store_16(uint8_t* p, uint8x16_t v, int count) {
  if (count == 16) {
    Bytes128::store(p, v);
  } else {
    Bytes128::store_part(p, v, count);
  }
}

// Conversion saturates, and takes NaN for 0, so bounds are those of bytes.
template <bool kSigned>
void quantize_neon(const float* x, int64_t size, float inv_scale, int32_t zero, int32_t lo,
                   int32_t hi, void* q) {
  const ClampedBytes<FloatBytes128, kSigned> bytes(static_cast<float>(lo - zero),
                                                   static_cast<float>(hi - zero), zero);
  uint8_t* out = static_cast<uint8_t*>(q);
  for_each_16(size, [&](int64_t i, auto count) OCTAVO_INLINE {
    float32x4_t v[4];
    load_16(x + i, count, v);
    unroll<4>([&](auto j) OCTAVO_INLINE { v[j] = vmulq_n_f32(v[j], inv_scale); });
    store_16(out + i, bytes(v), count);
  });
}

template <bool kSigned>
void dequantize_neon(const void* q, int64_t size, float scale, int32_t zero, float* x) {
  const uint8_t* in = static_cast<const uint8_t*>(q);
  const CenteredBytes<FloatBytes128, kSigned> center(zero);
  for_each_16(size, [&](int64_t i, auto count) OCTAVO_INLINE {
    float32x4_t v[4];
    center(load_16(in + i, count), v);
    unroll<4>([&](auto j) OCTAVO_INLINE { v[j] = vmulq_n_f32(v[j], scale); });
    store_16(x + i, v, count);
  });
}

template <bool kSigned>
void clamp_neon(const void* in, int64_t size, int32_t lo, int32_t hi, void* out) {
  using L = FloatBytes128;
  const uint8_t* x = static_cast<const uint8_t*>(in);
  uint8_t* y = static_cast<uint8_t*>(out);
  const uint8x16_t low = L::set8(lo), high = L::set8(hi);
  for_each_16(size, [&](int64_t i, auto count) OCTAVO_INLINE {
    const uint8x16_t v = load_16(x + i, count);
    store_16(y + i,
             kSigned ? L::min_s8(L::max_s8(v, low), high) : L::min_u8(L::max_u8(v, low), high),
             count);
  });
}

// Fake quantization asks of bounds only that NaN passes, and adds 0 to what they give, so FMIN and
// FMAX serve: one instruction each.
struct Levels128 : Floats128 {
  static inline Vec min(Vec a, Vec b) { return vminq_f32(a, b); }
  static inline Vec max(Vec a, Vec b) { return vmaxq_f32(a, b); }
};

static void masked_gradient_neon(const float* gradient, const uint8_t* inside, int64_t size,
                                 float* out) {
  const CenteredBytes<FloatBytes128, false> center(0);
  for_each_16(size, [&](int64_t i, auto count) OCTAVO_INLINE {
    float32x4_t v[4], factor[4];
    center(load_16(inside + i, count), factor);
    load_16(gradient + i, count, v);
    unroll<4>([&](auto j) OCTAVO_INLINE { v[j] = vmulq_f32(v[j], factor[j]); });
    store_16(out + i, v, count);
  });
}

// FMIN and FMAX keep NaN once they have met it, and take -0 for less than 0, which the comparisons
// at the end do not.
static void range_neon(const float* x, int64_t size, FloatRange* range) {
  float32x4_t lo[4], hi[4];
  unroll<4>([&](auto j) OCTAVO_INLINE {
    lo[j] = vdupq_n_f32(range->lo);
    hi[j] = vdupq_n_f32(range->hi);
  });
  for_each_16(size, [&](int64_t i, auto count) OCTAVO_INLINE {
    float32x4_t v[4];
    load_16(x + i, count, v);
    unroll<4>([&](auto j) OCTAVO_INLINE {
      lo[j] = vminq_f32(lo[j], v[j]);
      hi[j] = vmaxq_f32(hi[j], v[j]);
    });
  });
  const float low = vminvq_f32(vminq_f32(vminq_f32(lo[0], lo[1]), vminq_f32(lo[2], lo[3])));
  const float high = vmaxvq_f32(vmaxq_f32(vmaxq_f32(hi[0], hi[1]), vmaxq_f32(hi[2], hi[3])));
  if (low != low) {
    range->lo = range->hi = bits_float(0x7fc00000);
    return;
  }
  range->lo = low < range->lo ? low : range->lo;
  range->hi = high > range->hi ? high : range->hi;
}

// 16-bit floats as 32-bit ones.
template <bool kF16>
static inline OCTAVO_INLINE void widen_halves(uint8x16_t halves, float32x4_t (&x)[2]) {
  if constexpr (kF16) {
    x[0] = vcvt_f32_f16(vget_low_f16(vreinterpretq_f16_u8(halves)));
    x[1] = vcvt_high_f32_f16(vreinterpretq_f16_u8(halves));
  } else {
    const uint8x16_t none = vdupq_n_u8(0);
    x[0] = vreinterpretq_f32_u8(Bytes128::unpack_lo16(none, halves));
    x[1] = vreinterpretq_f32_u8(Bytes128::unpack_hi16(none, halves));
  }
}

template <bool kF16>
void to_float_neon(const void* halves, int64_t size, float* x) {
  const uint8_t* in = static_cast<const uint8_t*>(halves);
  float32x4_t v[2];
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    widen_halves<kF16>(Bytes128::load(in + 2 * i), v);
    vst1q_f32(x + i, v[0]);
    vst1q_f32(x + i + 4, v[1]);
  }
  if (i < size) {
    const int count = static_cast<int>(size - i);
    widen_halves<kF16>(Bytes128::load_part(in + 2 * i, 2 * count), v);
    Floats128::store(x + i, v[0], count < 4 ? count : 4);
    if (count > 4) Floats128::store(x + i + 4, v[1], count - 4);
  }
}

constexpr ElementwiseFns elementwise_neon() {
  ElementwiseFns fns = portable_elementwise();
  fns.quantize[0] = quantize_neon<false>;
  fns.quantize[1] = quantize_neon<true>;
  fns.dequantize[0] = dequantize_neon<false>;
  fns.dequantize[1] = dequantize_neon<true>;
  fns.clamp[0] = clamp_neon<false>;
  fns.clamp[1] = clamp_neon<true>;
  fns.range = range_neon;
  fns.to_float[0] = to_float_neon<false>;
  fns.to_float[1] = to_float_neon<true>;
  fns.lookup = lookup_neon;
  fns.moments = moments_vectors<FloatBytes128, Moments128>;
  fns.column_moments = column_moments_neon;
  fns.softmax = softmax_vectors<SoftmaxBytes128>;
  fns.fake_quantize = fake_quantize_vectors<Levels128>;
  fns.masked_gradient = masked_gradient_neon;
  add_elementwise_bytes<FloatBytes128>(fns);
  add_affine<FloatBytes128>(fns);
  add_pooling_neon(fns);
  add_cells_neon(fns);
  add_embedding_neon(fns);
  add_attention_neon(fns);
  return fns;
}

}  // namespace
}  // namespace octavo
