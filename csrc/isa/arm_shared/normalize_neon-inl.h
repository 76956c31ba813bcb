// Linear functions and moments with NEON: the vectors that normalize-inl.h computes on, and moments
// of its own, for which NEON has sums of neighbours that widen.
#pragma once

#include <arm_neon.h>

#include "abi/unroll.h"
#include "isa/arm_shared/bytes_neon-inl.h"
#include "isa/vector_shared/normalize-inl.h"

namespace octavo {
namespace {

struct FloatBytes128 : Bytes128 {
  // 2^23 + byte, in order.
  static inline void widen(Vec v, Floats (&x)[4]) {
    const Vec none = zero(), top = set16(0x4b00);
    const Vec low = unpack_lo8(v, none), high = unpack_hi8(v, none);
    x[0] = vreinterpretq_f32_u8(unpack_lo16(low, top));
    x[1] = vreinterpretq_f32_u8(unpack_hi16(low, top));
    x[2] = vreinterpretq_f32_u8(unpack_lo16(high, top));
    x[3] = vreinterpretq_f32_u8(unpack_hi16(high, top));
  }
  // kBytes bytes as floats, a quarter of them at a time.
  template <bool kSigned>
  struct Quarters {
    inline OCTAVO_INLINE explicit Quarters(const uint8_t* p) {
      const Vec v = FloatBytes128::load(p);
      widen(kSigned ? flip(v, set8(128)) : v, raised);
    }
    inline OCTAVO_INLINE Floats operator[](int j) const {
      return vsubq_f32(raised[j], vdupq_n_f32(kSigned ? 0x1p23f + 128.0f : 0x1p23f));
    }
    Floats raised[4];
  };
  static inline OCTAVO_INLINE void prefetch(const uint8_t* p) { __builtin_prefetch(p); }
  static inline Floats load_floats(const float* p) { return vld1q_f32(p); }
  static inline Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
  static inline Floats sub(Floats a, Floats b) { return vsubq_f32(a, b); }
  static inline Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
  static inline Floats min(Floats a, Floats b) { return vminq_f32(a, b); }
  static inline Floats max(Floats a, Floats b) { return vmaxq_f32(a, b); }
  // Values above `limit` need not differ from it: rounding saturates.
  static inline Vec round_up_to(Floats x, Floats) { return round(x); }
  static inline Vec in_order(Vec v) { return v; }
  // 255 in the first n bytes, 0 < n < 16, 0 in the others.
  static inline Vec first_bytes(int n) { return load(kOnes + 16 - n); }

 private:
  static constexpr uint8_t kOnes[32] = {255, 255, 255, 255, 255, 255, 255, 255,
                                        255, 255, 255, 255, 255, 255, 255, 255};
};

// Sums of bytes and of their squares: at most 4 * 255^2 to a lane and vector, so that `kLong`
// vectors fit.
struct Moments128 {
  using Vec = uint8x16_t;
  static constexpr int64_t kLong = 16384;

  inline OCTAVO_INLINE void take(Vec v) {
#if defined(__ARM_FEATURE_DOTPROD)
    sum = vdotq_u32(sum, v, vdupq_n_u8(1));
    square = vdotq_u32(square, v, v);
#else
    sum = vpadalq_u16(sum, vpaddlq_u8(v));
    square = vpadalq_u16(square, vmull_u8(vget_low_u8(v), vget_low_u8(v)));
    square = vpadalq_u16(square, vmull_high_u8(v, v));
#endif
  }
  // Of at most kLong vectors.
  void finish(int64_t* sums) const {
    sums[0] += static_cast<int64_t>(vaddlvq_u32(sum));
    sums[1] += static_cast<int64_t>(vaddlvq_u32(square));
  }
  uint32x4_t sum = vdupq_n_u32(0), square = vdupq_n_u32(0);
};

// Sums and sums of squares of 16 columns, of at most kMomentRows rows.
struct ColumnMoments128 {
  using L = FloatBytes128;
  using Vec = uint8x16_t;

  inline OCTAVO_INLINE ColumnMoments128() {
    unroll<4>([&](auto j) OCTAVO_INLINE { sum[j] = square[j] = vdupq_n_u32(0); });
  }
#if defined(__ARM_FEATURE_DOTPROD)
  // Rows are interleaved so that the four bytes of a column make a dword.
  inline OCTAVO_INLINE void take(const Vec (&row)[4]) {
    const Vec ab[2] = {vzip1q_u8(row[0], row[1]), vzip2q_u8(row[0], row[1])};
    const Vec cd[2] = {vzip1q_u8(row[2], row[3]), vzip2q_u8(row[2], row[3])};
    unroll<4>([&](auto j) OCTAVO_INLINE {
      const Vec v =
          j % 2 ? L::unpack_hi16(ab[j / 2], cd[j / 2]) : L::unpack_lo16(ab[j / 2], cd[j / 2]);
      sum[j] = vdotq_u32(sum[j], v, vdupq_n_u8(1));
      square[j] = vdotq_u32(square[j], v, v);
    });
  }
#else
  inline OCTAVO_INLINE void take(const Vec (&row)[4]) {
    uint16x8_t low = vaddl_u8(vget_low_u8(row[0]), vget_low_u8(row[1]));
    uint16x8_t high = vaddl_high_u8(row[0], row[1]);
    unroll<2>([&](auto i) OCTAVO_INLINE {
      low = vaddw_u8(low, vget_low_u8(row[2 + i]));
      high = vaddw_high_u8(high, row[2 + i]);
    });
    add(sum, low, high);
    unroll<4>([&](auto i) OCTAVO_INLINE {
      const uint8x8_t half = vget_low_u8(row[i]);
      add(square, vmull_u8(half, half), vmull_high_u8(row[i], row[i]));
    });
  }
  static inline OCTAVO_INLINE void add(uint32x4_t (&to)[4], uint16x8_t low, uint16x8_t high) {
    to[0] = vaddw_u16(to[0], vget_low_u16(low));
    to[1] = vaddw_high_u16(to[1], low);
    to[2] = vaddw_u16(to[2], vget_low_u16(high));
    to[3] = vaddw_high_u16(to[3], high);
  }
#endif
  uint32x4_t sum[4], square[4];
};

// Register budget (32), 2 vectors of columns: 16 sums, 8 rows and what they are widened to, 2
// constants.
template <int kVectors>
static inline OCTAVO_INLINE void column_moments_block(const uint8_t* x, int64_t rows,
                                                      ptrdiff_t stride, int columns, int32_t flip,
                                                      int32_t* sums, int32_t* squares) {
  using L = FloatBytes128;
  const uint8x16_t mask = L::set8(flip), none = L::zero();
  ColumnMoments128 moments[kVectors];
  const auto rows_from = [&](int64_t r, const auto& exists) OCTAVO_INLINE {
    unroll<kVectors>([&](auto v) OCTAVO_INLINE {
      uint8x16_t row[4];
      unroll<4>([&](auto j) OCTAVO_INLINE {
        row[j] = none;
        if (!exists(j)) return;
        const uint8_t* at = x + (r + j) * stride + v * 16;
        const int count = columns - v * 16;
        row[j] = L::flip(count < 16 ? L::load_part(at, count) : L::load(at), mask);
      });
      moments[v].take(row);
    });
  };
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) rows_from(r, [](int) OCTAVO_INLINE { return true; });
  if (r < rows) rows_from(r, [&](int j) OCTAVO_INLINE { return r + j < rows; });
  unroll<kVectors>([&](auto v) OCTAVO_INLINE {
    alignas(16) int32_t tile[2][16];
    unroll<4>([&](auto j) OCTAVO_INLINE {
      vst1q_s32(tile[0] + 4 * j, vreinterpretq_s32_u32(moments[v].sum[j]));
      vst1q_s32(tile[1] + 4 * j, vreinterpretq_s32_u32(moments[v].square[j]));
    });
    const int count = columns - v * 16 < 16 ? columns - v * 16 : 16;
    std::memcpy(sums + v * 16, tile[0], static_cast<size_t>(count) * sizeof(int32_t));
    std::memcpy(squares + v * 16, tile[1], static_cast<size_t>(count) * sizeof(int32_t));
  });
}

static void column_moments_neon(const void* q, int64_t rows, ptrdiff_t stride, int64_t columns,
                                int32_t flip, int32_t* sums, int32_t* squares) {
  const uint8_t* x = static_cast<const uint8_t*>(q);
  int64_t c = 0;
  for (; c + 32 <= columns; c += 32) {
    column_moments_block<2>(x + c, rows, stride, 32, flip, sums + c, squares + c);
  }
  for (; c < columns; c += 16) {
    const int count = static_cast<int>(columns - c < 16 ? columns - c : 16);
    column_moments_block<1>(x + c, rows, stride, count, flip, sums + c, squares + c);
  }
}

}  // namespace
}  // namespace octavo
