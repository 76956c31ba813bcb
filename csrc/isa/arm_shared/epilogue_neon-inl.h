// Requantization of 4 accumulators with NEON: abi/requantize.h, vector by vector.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "abi/gelu.h"
#include "abi/kernel_abi.h"
#include "abi/out_kind.h"
#include "abi/unroll.h"

namespace octavo {
namespace {

// The first `lanes` (1 .. 3; more means all 4) of 4 elements of 32 bits; zeros behind them.
static inline uint32x4_t load_lanes4(const void* p, int lanes) {
  const auto* from = static_cast<const uint32_t*>(p);
  if (lanes >= 4) return vld1q_u32(from);
  uint32x4_t v = vsetq_lane_u32(from[0], vdupq_n_u32(0), 0);
  if (lanes >= 2) v = vld1q_lane_u32(from + 1, v, 1);
  if (lanes >= 3) v = vld1q_lane_u32(from + 2, v, 2);
  return v;
}
static inline float32x4_t load_floats4(const float* p, int lanes) {
  return vreinterpretq_f32_u32(load_lanes4(p, lanes));
}
static inline int32x4_t load_ints4(const int32_t* p, int lanes) {
  return vreinterpretq_s32_u32(load_lanes4(p, lanes));
}

static inline void store_words4(uint32x4_t v, void* p, int lanes) {
  auto* to = static_cast<uint32_t*>(p);
  if (lanes >= 4) return vst1q_u32(to, v);
  vst1q_lane_u32(to, v, 0);
  if (lanes >= 2) vst1q_lane_u32(to + 1, v, 1);
  if (lanes >= 3) vst1q_lane_u32(to + 2, v, 2);
}

// What the epilogue of 4 neighbouring channels needs, loaded once for all rows of a tile: the first
// `lanes` (1 .. 4 count, more means 4) from channel n on.
struct Channels4 {
  Channels4(const Epilogue& e, int32_t n, int lanes)
      : n(n),
        lanes(lanes),
        mult(load_floats4(e.mult + n, lanes)),
        bias(load_floats4(e.bias + n, lanes)) {}

  int32_t n;
  int lanes;
  float32x4_t mult, bias;
};

static inline int32x4_t correct_accumulators4(int32x4_t acc, const Epilogue& e, int32_t m,
                                              int32_t n, int lanes) {
  if (e.row_zero) acc = vmlsq_n_s32(acc, load_ints4(e.col_sum + n, lanes), e.row_zero[m]);
  if (e.w_zero) acc = vmlsq_n_s32(acc, load_ints4(e.w_zero + n, lanes), e.row_sum[m]);
  return acc;
}

static inline float32x4_t residual4(const Epilogue& e, int32_t m, int32_t n, int lanes) {
  const char* from = static_cast<const char*>(e.add) + m * e.add_stride + n;
  uint32_t bytes = 0;
  if (lanes >= 4) {
    std::memcpy(&bytes, from, 4);
  } else {
    for (int i = 0; i < lanes; ++i) bytes |= uint32_t{static_cast<uint8_t>(from[i])} << (8 * i);
  }
  const uint8x8_t q = vcreate_u8(bytes);
  const int16x8_t wide =
      e.add_signed ? vmovl_s8(vreinterpret_s8_u8(q)) : vreinterpretq_s16_u16(vmovl_u8(q));
  const int32x4_t steps = vsubq_s32(vmovl_s16(vget_low_s16(wide)), vdupq_n_s32(e.add_zero));
  return vmulq_n_f32(vcvtq_f32_s32(steps), e.add_scale);
}

// clamp_or_nan() of abi/gelu.h: a zero keeps its sign, which FMAX and FMIN would not.
static inline float32x4_t clamp_or_nan4(float32x4_t x, float32x4_t lo, float32x4_t hi) {
  x = vbslq_f32(vcgtq_f32(lo, x), lo, x);
  return vbslq_f32(vcltq_f32(hi, x), hi, x);
}

// abi/half.h, vector by vector.
static inline uint16x4_t bf16_lanes4(float32x4_t x) {
  const uint32x4_t u = vreinterpretq_u32_f32(x), high = vshrq_n_u32(u, 16);
  const uint32x4_t odd = vandq_u32(high, vdupq_n_u32(1));
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd), 16);
  const uint32x4_t quiet = vorrq_u32(high, vdupq_n_u32(0x40));
  return vmovn_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet));
}

// abi/gelu.h, vector by vector. No bound here is zero, so FMAX and FMIN, which let NaN through,
// give clamp_or_nan()'s bits.
static inline float32x4_t gelu_lanes4(float32x4_t x) {
  const float32x4_t one = vdupq_n_f32(1.0f), half = vdupq_n_f32(0.5f);
  const float32x4_t limit = vdupq_n_f32(kErfIsOne);
  x = vmaxq_f32(vdupq_n_f32(kGeluLowest), x);
  float32x4_t z = vmulq_f32(x, vdupq_n_f32(kSqrtHalf));
  z = vminq_f32(limit, vmaxq_f32(vnegq_f32(limit), z));
  const float32x4_t t = vmulq_f32(z, z);
  float32x4_t p = vdupq_n_f32(kGeluNumerator[0]), q = vdupq_n_f32(kGeluDenominator[0]);
  for (int i = 1; i < kGeluTerms; ++i) {
    p = vaddq_f32(vmulq_f32(p, t), vdupq_n_f32(kGeluNumerator[i]));
    q = vaddq_f32(vmulq_f32(q, t), vdupq_n_f32(kGeluDenominator[i]));
  }
  float32x4_t erf = vdivq_f32(vmulq_f32(z, p), q);
  erf = vminq_f32(one, vmaxq_f32(vnegq_f32(one), erf));
  return vmulq_f32(x, vaddq_f32(half, vmulq_f32(half, erf)));
}

// The first `lanes` of 4 floats as kOut; more than 3 means all.
template <OutKind kOut>
static inline void store_floats4(float32x4_t x, void* out, int lanes) {
  if constexpr (kOut == OutKind::kF32) {
    store_words4(vreinterpretq_u32_f32(x), out, lanes);
  } else {
    const uint16x4_t halves =
        kOut == OutKind::kBF16 ? bf16_lanes4(x) : vreinterpret_u16_f16(vcvt_f16_f32(x));
    auto* to = static_cast<uint16_t*>(out);
    if (lanes >= 4) return vst1_u16(to, halves);
    vst1_lane_u16(to, halves, 0);
    if (lanes >= 2) vst1_lane_u16(to + 1, halves, 1);
    if (lanes >= 3) vst1_lane_u16(to + 2, halves, 2);
  }
}

// What the accumulators of row m come to before the clamp: in output steps for integer kinds.
template <OutKind kOut>
static inline float32x4_t scale_lanes4(int32x4_t acc, const Epilogue& e, const Channels4& c,
                                       int32_t m) {
  if (e.row_zero || e.w_zero) acc = correct_accumulators4(acc, e, m, c.n, c.lanes);
  float32x4_t x = vcvtq_f32_s32(acc);
  if (e.row_scale) x = vmulq_n_f32(x, e.row_scale[m]);
  if constexpr (is_float(kOut)) {
    x = vaddq_f32(vmulq_f32(x, c.mult), c.bias);
    return e.gelu ? gelu_lanes4(x) : x;
  } else {
    x = vmulq_f32(vaddq_f32(x, c.bias), c.mult);
    return e.add ? vaddq_f32(x, residual4(e, m, c.n, c.lanes)) : x;
  }
}

// From output steps to bytes of kind kOut.
template <OutKind kOut>
struct ByteRange4 {
  static constexpr bool kSigned = kOut == OutKind::kS8;

  explicit ByteRange4(const Epilogue& e)
      : floor(vdupq_n_f32(e.lo)),
        out_zero(vdupq_n_s16(static_cast<int16_t>(e.out_zero))),
        lo(vdupq_n_u8(static_cast<uint8_t>(vcvtns_s32_f32(e.lo) + e.out_zero))),
        hi(vdupq_n_u8(static_cast<uint8_t>(vcvtns_s32_f32(e.hi) + e.out_zero))) {}

  // To integers. NaN takes the lower bound; conversions saturate, and so does packing, so that the
  // upper bound can wait until there are bytes.
  int32x4_t steps(float32x4_t x) const { return vcvtnq_s32_f32(vmaxnmq_f32(x, floor)); }

  int16x8_t words(int32x4_t a, int32x4_t b) const {
    return vqaddq_s16(vqmovn_high_s32(vqmovn_s32(a), b), out_zero);
  }
  uint8x8_t pack(int16x8_t a) const {
    if constexpr (kSigned) return vreinterpret_u8_s8(vqmovn_s16(a));
    return vqmovun_s16(a);
  }
  uint8x16_t pack(int16x8_t a, int16x8_t b) const {
    if constexpr (kSigned) {
      return vreinterpretq_u8_s8(vqmovn_high_s16(vqmovn_s16(a), b));
    } else {
      return vqmovun_high_s16(vqmovun_s16(a), b);
    }
  }
  uint8x16_t clamp(uint8x16_t q) const {
    if constexpr (kSigned) {
      const int8x16_t above = vmaxq_s8(vreinterpretq_s8_u8(q), vreinterpretq_s8_u8(lo));
      return vreinterpretq_u8_s8(vminq_s8(above, vreinterpretq_s8_u8(hi)));
    } else {
      return vminq_u8(vmaxq_u8(q, lo), hi);
    }
  }
  uint8x8_t clamp(uint8x8_t q) const { return vget_low_u8(clamp(vcombine_u8(q, q))); }

  float32x4_t floor;
  int16x8_t out_zero;
  uint8x16_t lo, hi;
};

// The first `lanes` of 4 bytes; more than 3 means all.
static inline void store_bytes4(uint8x8_t q, void* out, int lanes) {
  const uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(q), 0);
  if (lanes >= 4) {
    std::memcpy(out, &bytes, 4);
  } else {
    for (int i = 0; i < lanes; ++i) static_cast<uint8_t*>(out)[i] = uint8_t(bytes >> (8 * i));
  }
}

// Stores row m of the channels; `out` is the first element.
template <OutKind kOut>
static inline void store_lanes4(int32x4_t acc, const Epilogue& e, const Channels4& c, int32_t m,
                                void* out) {
  if constexpr (kOut == OutKind::kI32) {
    if (e.row_zero || e.w_zero) acc = correct_accumulators4(acc, e, m, c.n, c.lanes);
    store_words4(vreinterpretq_u32_s32(acc), out, c.lanes);
  } else if constexpr (is_float(kOut)) {
    const float32x4_t x = scale_lanes4<kOut>(acc, e, c, m);
    store_floats4<kOut>(clamp_or_nan4(x, vdupq_n_f32(e.lo), vdupq_n_f32(e.hi)), out, c.lanes);
  } else {
    const ByteRange4<kOut> range(e);
    const int32x4_t q = range.steps(scale_lanes4<kOut>(acc, e, c, m));
    store_bytes4(range.clamp(range.pack(range.words(q, q))), out, c.lanes);
  }
}

// Columns [c, g.n) of the tile to bytes, as many blocks of 16 or 8 as there are; returns what
// follows them.
//
// Register budget (32): 8 for mult and bias, 4 of the range, 1 operand for each factor, 8 sums.
template <OutKind kOut, int NV>
static inline int store_byte_columns(const int32_t* acc, ptrdiff_t acc_stride, const GemmArgs& g,
                                     int row0, int rows, int c) {
  static_assert(NV == 2 || NV == 4);
  const Epilogue& e = *g.epilogue;
  const ByteRange4<kOut> range(e);
  for (; c + NV * 4 <= g.n; c += NV * 4) {
    const int32_t n = g.n0 + c;
    const Channels4 channels[] = {
        {e, n, 4}, {e, n + 4, 4}, {e, n + (NV - 2) * 4, 4}, {e, n + (NV - 1) * 4, 4}};
    uint8_t* out = static_cast<uint8_t*>(g.out) + row0 * g.out_stride + c;
    const int32_t* from = acc + c;
    for (int r = 0; r < rows; ++r, out += g.out_stride, from += acc_stride) {
      const auto steps = [&](int v) OCTAVO_INLINE {
        return range.steps(
            scale_lanes4<kOut>(vld1q_s32(from + v * 4), e, channels[v], g.m0 + row0 + r));
      };
      const int16x8_t low = range.words(steps(0), steps(1));
      if constexpr (NV == 2) {
        vst1_u8(out, range.clamp(range.pack(low)));
      } else {
        vst1q_u8(out, range.clamp(range.pack(low, range.words(steps(2), steps(3)))));
      }
    }
  }
  return c;
}

// Stores `rows` rows of a tile from row0 on; `acc` holds their accumulators, [rows][acc_stride],
// acc_init included. Whole vectors of 4 are read where a tile's last has fewer columns.
//
// Not inlined: a kernel that had all kinds of stores inside would lose registers to them.
__attribute__((noinline)) static void store_rows_neon(const int32_t* acc, ptrdiff_t acc_stride,
                                                      const GemmArgs& g, int row0, int rows) {
  with_kind(g.kind, [&](auto kind) {
    constexpr OutKind kOut = decltype(kind)::value;
    int c = 0;
    if constexpr (kOut == OutKind::kU8 || kOut == OutKind::kS8) {
      c = store_byte_columns<kOut, 4>(acc, acc_stride, g, row0, rows, c);
      c = store_byte_columns<kOut, 2>(acc, acc_stride, g, row0, rows, c);
    }
    for (; c < g.n; c += 4) {
      char* out = static_cast<char*>(g.out) + row0 * g.out_stride + c * kind_bytes(kOut);
      const int32_t* from = acc + c;
      const Channels4 channels(*g.epilogue, g.n0 + c, g.n - c);
      for (int r = 0; r < rows; ++r, from += acc_stride, out += g.out_stride)
        store_lanes4<kOut>(vld1q_s32(from), *g.epilogue, channels, g.m0 + row0 + r, out);
    }
  });
}

}  // namespace
}  // namespace octavo
