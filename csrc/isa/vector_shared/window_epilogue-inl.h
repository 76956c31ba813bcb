// From the accumulators of window kernels to stored outputs.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/out_kind.h"
#include "isa/vector_shared/window_vector-inl.h"

namespace octavo {
namespace {

// Pixels whose accumulators wait in memory, where they do not go straight to 8-bit outputs. Kernels
// that run along rows begin anew behind them.
constexpr int kTilePixels = kWindowPixels;

// Stores `pixels` rows of accumulators, [pixels][stride], channels [channel, channel + n), as
// output pixels that follow one another from `out` (channel 0) on.
static inline void store_accumulators(const int32_t* acc, int stride, const WindowArgs& args,
                                      int channel, int n, int pixels, char* out, int m) {
  GemmArgs g{};
  g.kind = args.kind;
  g.n = n;
  g.n0 = channel;
  g.out = out + channel * kind_bytes(args.kind);
  g.out_stride = args.out_stride;
  g.epilogue = args.epilogue;
  g.m0 = m;
  store_window_rows(acc, stride, g, pixels);
}

// Whether a call's outputs are what Requantize8 stores.
static inline bool is_plain8(const WindowArgs& args) {
  return (args.kind == OutKind::kU8 || args.kind == OutKind::kS8) && !args.epilogue->add;
}

// Output pixels that a kernel which runs along rows computes at a time: all of a row, or even parts
// of it that fit kTilePixels.
static inline int run_pixels(const WindowArgs& args) {
  if (is_plain8(args)) return args.pixels;
  const int runs = (args.pixels + kTilePixels - 1) / kTilePixels;
  return (args.pixels + runs - 1) / runs;
}

static inline char* output_pixel(const WindowArgs& args, int row, int pixel) {
  return static_cast<char*>(args.out) + row * args.out_row_stride + pixel * args.out_stride;
}

// Whether no result of n channels from `channel` on can leave int32, whatever the activations.
static inline bool stays_int32(const WindowArgs& args, int32_t depth, int channel, int n) {
  const Epilogue& e = *args.epilogue;
  const float products = 255.0f * 128.0f * static_cast<float>(depth);
  bool stays = true;
  for (int c = channel; c < channel + n; ++c) {
    const float largest =
        __builtin_fabsf(static_cast<float>(e.acc_init[c])) + products + __builtin_fabsf(e.bias[c]);
    stays &= largest * __builtin_fabsf(e.mult[c]) < 0x1p30f;  // false where NaN
  }
  return stays;
}

// abi/requantize.h for 8-bit outputs without a residual, on four vectors at a time. Bounds are
// integers, so clamping after rounding gives what clamping before gives, and packing with
// saturation does most of it. In float one bound is enough, and needed only where a result may
// leave int32 (L::guard).
template <class L>
struct Requantize8 {
  using Vec = typename L::Vec;
  using Floats = typename L::Floats;

  // int8 outputs are computed 128 higher, as uint8.
  Requantize8(const WindowArgs& args, bool bounded) : bounded(bounded) {
    const Epilogue& e = *args.epilogue;
    const int offset = args.kind == OutKind::kS8 ? 128 : 0;
    const int zero16 = e.out_zero + offset;
    guard = L::guard(e.lo, e.hi);
    zero = L::set16(zero16);
    lowest = L::set8(L::Part::nearest(e.lo) + zero16);
    highest = L::set8(L::Part::nearest(e.hi) + zero16);
    flip = L::set8(offset);
  }

  template <bool kBounded>
  inline OCTAVO_INLINE Vec steps(Vec acc, Floats mult, Floats bias) const {
    const Floats x = L::mul(L::add(L::to_float(acc), bias), mult);
    return L::to_int(kBounded ? x : L::guarded(guard, x));
  }
  inline OCTAVO_INLINE Vec pack(Vec a, Vec b, Vec c, Vec d) const {
    const Vec ab = L::add_saturating16(L::pack32(a, b), zero);
    const Vec cd = L::add_saturating16(L::pack32(c, d), zero);
    const Vec bytes = L::min8(L::max8(L::pack16(ab, cd), lowest), highest);
    return L::bit_xor(bytes, flip);
  }

  bool bounded;
  Floats guard;
  Vec zero, lowest, highest, flip;
};

}  // namespace
}  // namespace octavo
