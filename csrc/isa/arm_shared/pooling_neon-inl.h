// Pooling and interpolation with NEON: what pooling-inl.h and interpolate-inl.h need beside
// Bytes128.
#pragma once

#include "isa/arm_shared/bytes_neon-inl.h"
#include "isa/vector_shared/interpolate-inl.h"

namespace octavo {
namespace {

// 16-bit sums take bytes as they are (UADDW, SADDW).
struct PoolingBytes128 : Bytes128 {
  static constexpr bool kAddsWide = true;

  // 16-bit sums and the lower or the upper 8 bytes of v.
  template <bool kSigned>
  static inline OCTAVO_INLINE Vec add_lo8(Vec sums, Vec v) {
    if constexpr (kSigned) return from16(vaddw_s8(s16(sums), vget_low_s8(s8(v))));
    return vreinterpretq_u8_u16(vaddw_u8(u16(sums), vget_low_u8(v)));
  }
  template <bool kSigned>
  static inline OCTAVO_INLINE Vec add_hi8(Vec sums, Vec v) {
    if constexpr (kSigned) return from16(vaddw_high_s8(s16(sums), s8(v)));
    return vreinterpretq_u8_u16(vaddw_high_u8(u16(sums), v));
  }
};

// Products with weights that all lanes share. Results are between the smallest and the largest
// pixel, so their lowest byte is all that counts, of the zero point, too; and rne(sum / 2^n) is
// what a shift that rounds half up gives for sum - 1 + the lowest bit of the integer part. The 1
// is in the start value: where it lowers the integer part, nothing is lost by it, since the sum had
// no fraction.
//
// Registers: 4 sums, 2 inputs as 4 of 16 bits, 3 constants, kRows weights.
template <bool kSigned, int kRows>
struct Interpolation128 {
  using Weights = uint16x8_t;  // left and right in turn
  explicit Interpolation128(int32_t zero)
      : start(vdupq_n_s32(-zero * kInterpolationOne - 1)),
        odd(vdupq_n_u32(kInterpolationOne)),
        zero8(vdupq_n_u8(static_cast<uint8_t>(zero))) {}
  static Weights weights(int32_t both) { return vreinterpretq_u16_s32(vdupq_n_s32(both)); }

  template <typename Channels>
  OCTAVO_INLINE uint8x16_t operator()(const Corners<Interpolation128, kRows>& from,
                                      const Channels& channels) const {
    int32x4_t sum[4] = {start, start, start, start};
    unroll<kRows>([&](auto r) OCTAVO_INLINE {
      add<0>(sum, channels.load(from.left[r], 0), from.weights[r]);
      add<1>(sum, channels.load(from.right[r], 0), from.weights[r]);
    });
    uint32x4_t rounded[4];
    unroll<4>([&](auto j) OCTAVO_INLINE {
      const uint32x4_t s = vreinterpretq_u32_s32(sum[j]);
      rounded[j] = vsraq_n_u32(s, vandq_u32(s, odd), kShift);
    });
    const uint16x8_t low = vrshrn_high_n_u32(vrshrn_n_u32(rounded[0], kShift), rounded[1], kShift);
    const uint16x8_t high = vrshrn_high_n_u32(vrshrn_n_u32(rounded[2], kShift), rounded[3], kShift);
    return vaddq_u8(vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high)), zero8);
  }

 private:
  static constexpr int kShift = 14;
  static_assert(kInterpolationOne == 1 << kShift);

  template <int kLane>
  static OCTAVO_INLINE void add(int32x4_t (&sum)[4], uint8x16_t bytes, uint16x8_t weights) {
    const int16x8_t w = vreinterpretq_s16_u16(weights);
    int16x8_t low, high;
    if constexpr (kSigned) {
      low = vmovl_s8(vget_low_s8(Bytes128::s8(bytes)));
      high = vmovl_high_s8(Bytes128::s8(bytes));
    } else {
      low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
      high = vreinterpretq_s16_u16(vmovl_high_u8(bytes));
    }
    sum[0] = vmlal_laneq_s16(sum[0], vget_low_s16(low), w, kLane);
    sum[1] = vmlal_high_laneq_s16(sum[1], low, w, kLane);
    sum[2] = vmlal_laneq_s16(sum[2], vget_low_s16(high), w, kLane);
    sum[3] = vmlal_high_laneq_s16(sum[3], high, w, kLane);
  }

  int32x4_t start;
  uint32x4_t odd;
  uint8x16_t zero8;
};

// The same where all weights are multiples of 128: 7 bits of them are a byte, or with signed pixels
// minus them, since a weight may be all of 128. Sums count modulo 2^15.
//
// Registers: 2 sums, 2 inputs, 3 constants, 2 * kRows weights.
template <bool kSigned, int kRows>
struct CoarseInterpolation128 {
  struct Weights {
    uint8x16_t left, right;
  };
  explicit CoarseInterpolation128(int32_t zero)
      : start(vdupq_n_u16(static_cast<uint16_t>(-zero * 128 - 1))),
        odd(vdupq_n_u16(128)),
        zero8(vdupq_n_u8(static_cast<uint8_t>(zero))) {}
  static Weights weights(int32_t both) {
    const int32_t sign = kSigned ? -1 : 1;
    return {vdupq_n_u8(static_cast<uint8_t>(sign * ((both & 0xffff) >> 7))),
            vdupq_n_u8(static_cast<uint8_t>(sign * (both >> 23)))};
  }

  template <typename Channels>
  OCTAVO_INLINE uint8x16_t operator()(const Corners<CoarseInterpolation128, kRows>& from,
                                      const Channels& channels) const {
    uint16x8_t low = start, high = start;
    unroll<kRows>([&](auto r) OCTAVO_INLINE {
      add(low, high, channels.load(from.left[r], 0), from.weights[r].left);
      add(low, high, channels.load(from.right[r], 0), from.weights[r].right);
    });
    const auto steps = [&](uint16x8_t s)
                           OCTAVO_INLINE { return vsraq_n_u16(s, vandq_u16(s, odd), 7); };
    return vaddq_u8(vrshrn_high_n_u16(vrshrn_n_u16(steps(low), 7), steps(high), 7), zero8);
  }

 private:
  static OCTAVO_INLINE void add(uint16x8_t& low, uint16x8_t& high, uint8x16_t bytes,
                                uint8x16_t weights) {
    if constexpr (kSigned) {
      const int8x16_t q = Bytes128::s8(bytes), w = Bytes128::s8(weights);
      const int16x8_t a = vreinterpretq_s16_u16(low), b = vreinterpretq_s16_u16(high);
      low = vreinterpretq_u16_s16(vmlsl_s8(a, vget_low_s8(q), vget_low_s8(w)));
      high = vreinterpretq_u16_s16(vmlsl_high_s8(b, q, w));
    } else {
      low = vmlal_u8(low, vget_low_u8(bytes), vget_low_u8(weights));
      high = vmlal_high_u8(high, bytes, weights);
    }
  }

  uint16x8_t start, odd;
  uint8x16_t zero8;
};

template <>
struct InterpolationForms<PoolingBytes128> {
  template <bool kSigned, int kRows>
  using Fine = Interpolation128<kSigned, kRows>;
  template <bool kSigned, int kRows>
  using Coarse = CoarseInterpolation128<kSigned, kRows>;
};

constexpr void add_pooling_neon(ElementwiseFns& fns) {
  fns.max_pool[0] = max_pool_vectors<PoolingBytes128, false>;
  fns.max_pool[1] = max_pool_vectors<PoolingBytes128, true>;
  fns.avg_pool[0] = avg_pool_vectors<PoolingBytes128, false>;
  fns.avg_pool[1] = avg_pool_vectors<PoolingBytes128, true>;
  fns.interpolate[0] = interpolate_vectors<PoolingBytes128, false>;
  fns.interpolate[1] = interpolate_vectors<PoolingBytes128, true>;
}

}  // namespace
}  // namespace octavo
