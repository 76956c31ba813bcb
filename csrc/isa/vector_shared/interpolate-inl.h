// Linear interpolation on vectors of any width; B is one of the Bytes vectors
// (pooling_<vectors>-inl.h).
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/vector_shared/pooling-inl.h"

namespace octavo {
namespace {

// What one output pixel is computed from. In registers, or at least where stores of bytes, which
// may alias anything, do not make the compiler load it again.
template <typename Form, int kRows>
struct Corners {
  const uint8_t *left[kRows], *right[kRows];
  typename Form::Weights weights[kRows];
};

// Left and right pixels side by side meet their weights in vpmaddwd. int8 is computed as uint8 with
// a zero point 128 higher.
//
// Registers: 4 sums, 2 inputs, 2 pairs, 1 product; zero, flip and kRows weights.
template <typename B, bool kSigned, int kRows>
struct Interpolation {
  using Vec = typename B::Vec;
  using Weights = Vec;  // 16 bits of the left pixel, 16 of the right in turn
  explicit Interpolation(int32_t zero)
      : start(B::set32(-(zero + kBias) * kInterpolationOne)),
        zero16(B::set16(zero + kBias)),
        flip(B::set8(-128)),
        scale(B::set_float(1.0f / kInterpolationOne)) {}
  static Vec weights(int32_t both) { return B::set32(both); }

  template <typename Channels>
  OCTAVO_INLINE Vec operator()(const Corners<Interpolation, kRows>& from,
                               const Channels& channels) const {
    const auto load = [&](const uint8_t* pixel) OCTAVO_INLINE {
      const Vec in = channels.load(pixel, 0);
      return kSigned ? B::flip(in, flip) : in;
    };
    const Vec none = B::zero();
    Vec sum[4] = {start, start, start, start};
    unroll<kRows>([&](auto r) OCTAVO_INLINE {
      const Vec a = load(from.left[r]), b = load(from.right[r]), w = from.weights[r];
      const Vec lo = B::unpack_lo8(a, b), hi = B::unpack_hi8(a, b);
      sum[0] = B::add32(sum[0], B::madd16(B::unpack_lo8(lo, none), w));
      sum[1] = B::add32(sum[1], B::madd16(B::unpack_hi8(lo, none), w));
      sum[2] = B::add32(sum[2], B::madd16(B::unpack_lo8(hi, none), w));
      sum[3] = B::add32(sum[3], B::madd16(B::unpack_hi8(hi, none), w));
    });
    unroll<4>([&](auto j) OCTAVO_INLINE { sum[j] = B::round(B::mul(B::to_float(sum[j]), scale)); });
    const Vec out = pack_steps<B, false>(sum, zero16);
    return kSigned ? B::flip(out, flip) : out;
  }

  static constexpr int32_t kBias = kSigned ? 128 : 0;
  Vec start, zero16, flip;
  typename B::Floats scale;
};

// The same where all weights are multiples of 128, as at integer factors up to 8: 7 bits of them,
// in one byte, meet bytes in vpmaddubsw. The pixels are its signed operand, because a weight may be
// all of 128; sums stay within 128 * 255.
//
// Registers: 2 sums, 2 inputs, 2 pairs; flip, 3 constants and kRows weights.
template <typename B, bool kSigned, int kRows>
struct CoarseInterpolation {
  using Vec = typename B::Vec;
  using Weights = Vec;  // 8 bits of each in turn
  explicit CoarseInterpolation(int32_t zero)
      : start(B::set16(-(zero - (kSigned ? 0 : 128)) * 128)),
        zero16(B::set16(zero)),
        flip(B::set8(-128)) {}
  static Vec weights(int32_t both) {
    const int32_t bits = both >> 7;
    return B::set16((bits & 0xff) | (bits >> 8));
  }

  template <typename Channels>
  OCTAVO_INLINE Vec operator()(const Corners<CoarseInterpolation, kRows>& from,
                               const Channels& channels) const {
    const auto load = [&](const uint8_t* pixel) OCTAVO_INLINE {
      const Vec in = channels.load(pixel, 0);
      return kSigned ? in : B::flip(in, flip);
    };
    Vec lo = start, hi = start;
    unroll<kRows>([&](auto r) OCTAVO_INLINE {
      const Vec a = load(from.left[r]), b = load(from.right[r]), w = from.weights[r];
      lo = B::add16(lo, B::maddu8s8(w, B::unpack_lo8(a, b)));
      hi = B::add16(hi, B::maddu8s8(w, B::unpack_hi8(a, b)));
    });
    lo = B::add16(rounded(lo), zero16);
    hi = B::add16(rounded(hi), zero16);
    return kSigned ? B::pack16_s8(lo, hi) : B::pack16_u8(lo, hi);
  }

  // rne(sum / 128)
  static OCTAVO_INLINE Vec rounded(Vec sum) {
    const Vec odd = B::both(B::shift7(sum), B::set16(1));
    return B::shift7(B::add16(B::add16(sum, B::set16(63)), odd));
  }

  Vec start, zero16, flip;
};

template <typename B, int kRows, typename Form>
static void interpolate_rows(const InterpolateArgs& args) {
  const InterpolateArgs p = args;
  const Form form(p.zero_point);
  for (int64_t i = 0; i < p.pixels; ++i) {
    Corners<Form, kRows> from;
    unroll<kRows>([&](auto r) OCTAVO_INLINE {
      const uint8_t* row = static_cast<const uint8_t*>(p.rows[r]);
      from.left[r] = row + p.left[i];
      from.right[r] = row + p.right[i];
      from.weights[r] = Form::weights(p.weights[i * kRows + r]);
    });
    uint8_t* out = output_pixel(p.out, p.out_stride, i);
    if (p.channels < B::kBytes) {
      const Channels8Bit<B, true> few{0, p.channels};
      few.store(out, 0, form(from, few));
      continue;
    }
    for (int c = 0; c < p.channels; c += B::kBytes) {
      const int begin = c + B::kBytes <= p.channels ? c : p.channels - B::kBytes;
      const Channels8Bit<B, false> channels{begin, 0};
      channels.store(out, 0, form(from, channels));
    }
  }
}

// How vectors B interpolate, which those without vpmaddwd and vpmaddubsw specialize.
template <typename B>
struct InterpolationForms {
  template <bool kSigned, int kRows>
  using Fine = Interpolation<B, kSigned, kRows>;
  template <bool kSigned, int kRows>
  using Coarse = CoarseInterpolation<B, kSigned, kRows>;
};

template <typename B, bool kSigned, int kRows>
static void interpolate_any(const InterpolateArgs& p) {
  using Forms = InterpolationForms<B>;
  constexpr int32_t kFine = 127 * 65537;
  if (p.weight_bits & kFine) {
    interpolate_rows<B, kRows, typename Forms::template Fine<kSigned, kRows>>(p);
  } else {
    interpolate_rows<B, kRows, typename Forms::template Coarse<kSigned, kRows>>(p);
  }
}

template <typename B, bool kSigned>
void interpolate_vectors(const InterpolateArgs* args) {
  if (args->row_count == 1) return interpolate_any<B, kSigned, 1>(*args);
  if (args->row_count == 2) return interpolate_any<B, kSigned, 2>(*args);
  interpolate_any<B, kSigned, 4>(*args);
}

}  // namespace
}  // namespace octavo
