// Pooling and interpolation kernels for both widths of x86 vectors; B is Bytes256 or Bytes512.
//
// Everything between bytes and the rounded result stays in the order that unpacking within 128-bit
// lanes gives, which packing undoes: no permutation across lanes is needed.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"

namespace octavo {
namespace {

// The channels of a tile: whole vectors from `begin` on, or, where the image has fewer channels
// than a vector has bytes, the first `part` of one.
template <typename B, bool kPart>
struct Channels8Bit {
  int begin;
  int part;

  typename B::Vec load(const uint8_t* pixel, int vector) const {
    if constexpr (kPart) return B::load_part(pixel, part);
    return B::load(pixel + begin + vector * B::kBytes);
  }
  void store(uint8_t* pixel, int vector, typename B::Vec v) const {
    if constexpr (kPart) {
      B::store_part(pixel, v, part);
    } else {
      B::store(pixel + begin + vector * B::kBytes, v);
    }
  }
};

// Covers `pixels` x `channels` with tiles of 4 vectors: of one pixel where there are as many
// channels, else of 4 pixels. A last vector that would reach over the end moves back over bytes
// that were written already. Calls tile(pixels, vectors, first pixel, channels) with the sizes as
// types.
template <typename B, typename Tile>
static inline OCTAVO_INLINE void for_tiles(int64_t pixels, int channels, const Tile& tile) {
  constexpr int kTile = 4;
  const auto columns = [&](auto width, int64_t pixel) OCTAVO_INLINE {
    if (channels < B::kBytes) {
      tile(width, Index<1>(), pixel, Channels8Bit<B, true>{0, channels});
      return;
    }
    int c = 0;
    for (; c + kTile * B::kBytes <= channels; c += kTile * B::kBytes) {
      for (int i = 0; i < width; ++i) {
        tile(Index<1>(), Index<kTile>(), pixel + i, Channels8Bit<B, false>{c, 0});
      }
    }
    for (; c < channels; c += B::kBytes) {
      const int begin = c + B::kBytes <= channels ? c : channels - B::kBytes;
      tile(width, Index<1>(), pixel, Channels8Bit<B, false>{begin, 0});
    }
  };
  int64_t pixel = 0;
  for (; pixel + kTile <= pixels; pixel += kTile) columns(Index<kTile>(), pixel);
  for (; pixel < pixels; ++pixel) columns(Index<1>(), pixel);
}

// Calls row(first tap) for each row of the window of pixel `index`.
template <typename Row>
static inline OCTAVO_INLINE void for_window_rows(const PoolArgs& p, int64_t index, const Row& row) {
  const uint8_t* window = static_cast<const uint8_t*>(p.in) + index * p.in_stride;
  for (int32_t d = 0; d < p.taps[0]; ++d) {
    for (int32_t h = 0; h < p.taps[1]; ++h) {
      row(window + d * p.tap_stride[0] + h * p.tap_stride[1]);
    }
  }
}

static inline uint8_t* output_pixel(void* out, ptrdiff_t stride, int64_t index) {
  return static_cast<uint8_t*>(out) + index * stride;
}

// Registers: 4 maxima and 1 input.
template <typename B, bool kSigned>
void max_pool_vectors(const PoolArgs* args) {
  using Vec = typename B::Vec;
  const PoolArgs& p = *args;
  const Vec lowest = B::set8(kSigned ? -128 : 0);
  for_tiles<B>(
      p.pixels, p.channels,
      [&](auto pixels, auto vectors, int64_t first, auto channels) OCTAVO_INLINE {
        constexpr int kPixels = decltype(pixels)(), kVectors = decltype(vectors)();
        Vec best[kPixels][kVectors];
        unroll<kPixels>([&](auto i) OCTAVO_INLINE {
          unroll<kVectors>([&](auto v) OCTAVO_INLINE { best[i][v] = lowest; });
        });
        for_window_rows(p, first, [&](const uint8_t* tap) OCTAVO_INLINE {
          for (int32_t w = 0; w < p.taps[2]; ++w, tap += p.tap_stride[2]) {
            unroll<kPixels>([&](auto i) OCTAVO_INLINE {
              unroll<kVectors>([&](auto v) OCTAVO_INLINE {
                const Vec in = channels.load(tap + i * p.in_stride, v);
                best[i][v] = kSigned ? B::max_s8(best[i][v], in) : B::max_u8(best[i][v], in);
              });
            });
          }
        });
        unroll<kPixels>([&](auto i) OCTAVO_INLINE {
          uint8_t* out = output_pixel(p.out, p.out_stride, first + i);
          unroll<kVectors>([&](auto v) OCTAVO_INLINE { channels.store(out, v, best[i][v]); });
        });
      });
}

// Sums of one vector of channels.
template <typename B>
struct Sums16 {  // of at most 256 taps, in 16 bits: unsigned for uint8, signed for int8
  typename B::Vec lo, hi;
};
template <typename B>
struct Sums32 {
  typename B::Vec q[4];
};

template <typename B, bool kSigned>
static inline OCTAVO_INLINE Sums32<B> widen(const Sums16<B>& s) {
  using Vec = typename B::Vec;
  const Vec lo = kSigned ? B::sign16(s.lo) : B::zero(), hi = kSigned ? B::sign16(s.hi) : B::zero();
  return {{B::unpack_lo16(s.lo, lo), B::unpack_hi16(s.lo, lo), B::unpack_lo16(s.hi, hi),
           B::unpack_hi16(s.hi, hi)}};
}

// Adds a + b. vpmaddubsw with ones adds neighbouring bytes, exactly: at most 510.
template <typename B, bool kSigned>
static inline OCTAVO_INLINE void add_pair(Sums16<B>& s, typename B::Vec a, typename B::Vec b,
                                          typename B::Vec ones) {
  const auto pairs = [&](typename B::Vec v) OCTAVO_INLINE {
    return kSigned ? B::maddu8s8(ones, v) : B::maddu8s8(v, ones);
  };
  s.lo = B::add16(s.lo, pairs(B::unpack_lo8(a, b)));
  s.hi = B::add16(s.hi, pairs(B::unpack_hi8(a, b)));
}

template <typename B, bool kSigned>
static inline OCTAVO_INLINE void add_one(Sums16<B>& s, typename B::Vec a, typename B::Vec ones) {
  if constexpr (kSigned) {
    add_pair<B, kSigned>(s, a, B::zero(), ones);
  } else {
    s.lo = B::add16(s.lo, B::unpack_lo8(a, B::zero()));
    s.hi = B::add16(s.hi, B::unpack_hi8(a, B::zero()));
  }
}

// zp + rne((sum - taps * zp) * scale), saturated.
template <typename B, bool kSigned>
struct Mean {
  explicit Mean(const PoolArgs& p)
      : offset(B::set32(p.taps[0] * p.taps[1] * p.taps[2] * p.zero_point)),
        zero(B::set32(p.zero_point)),
        scale(B::set_float(p.scale)),
        lo(B::set_float(static_cast<float>((kSigned ? -128 : 0) - p.zero_point))),
        hi(B::set_float(static_cast<float>((kSigned ? 127 : 255) - p.zero_point))) {}

  typename B::Vec operator()(const Sums32<B>& sums) const {
    typename B::Vec q[4];
    unroll<4>([&](auto j) OCTAVO_INLINE {
      const auto x = B::mul(B::to_float(B::sub32(sums.q[j], offset)), scale);
      q[j] = B::add32(B::round(B::clamp(x, lo, hi)), zero);
    });
    const auto low = B::pack32(q[0], q[1]), high = B::pack32(q[2], q[3]);
    return kSigned ? B::pack16_s8(low, high) : B::pack16_u8(low, high);
  }

  typename B::Vec offset, zero;
  typename B::Floats scale, lo, hi;
};

// The sums of one tile: 4 vectors of channels as rows of taps come.
//
// Registers: 8 sums, 2 inputs, 2 unpacked, ones and zero.
template <typename B, bool kSigned, int kPixels, int kVectors>
struct SumTile {
  using Vec = typename B::Vec;
  Sums16<B> sums[kPixels][kVectors];

  void clear() {
    unroll<kPixels>([&](auto i) OCTAVO_INLINE {
      unroll<kVectors>([&](auto v) OCTAVO_INLINE { sums[i][v] = {B::zero(), B::zero()}; });
    });
  }

  template <typename Channels>
  OCTAVO_INLINE void add_row(const PoolArgs& p, const uint8_t* tap, int taps,
                             const Channels& channels) {
    const Vec ones = B::set8(1);
    const ptrdiff_t step = p.tap_stride[2];
    for (; taps >= 2; taps -= 2, tap += 2 * step) {
      unroll<kPixels>([&](auto i) OCTAVO_INLINE {
        const uint8_t* from = tap + i * p.in_stride;
        unroll<kVectors>([&](auto v) OCTAVO_INLINE {
          add_pair<B, kSigned>(sums[i][v], channels.load(from, v), channels.load(from + step, v),
                               ones);
        });
      });
    }
    if (taps == 0) return;
    unroll<kPixels>([&](auto i) OCTAVO_INLINE {
      unroll<kVectors>([&](auto v) OCTAVO_INLINE {
        add_one<B, kSigned>(sums[i][v], channels.load(tap + i * p.in_stride, v), ones);
      });
    });
  }
};

constexpr int kMaxTaps16 = 256;  // 256 * 255 < 2^16, 256 * -128 = -2^15

// A window of more taps than 16-bit sums can hold, one pixel and one vector of channels at a time.
template <typename B, bool kSigned, typename Channels>
__attribute__((noinline)) void avg_large_window(const PoolArgs& p, int64_t index, int vectors,
                                                const Channels& channels) {
  const Mean<B, kSigned> mean(p);
  uint8_t* out = output_pixel(p.out, p.out_stride, index);
  for (int v = 0; v < vectors; ++v) {
    const Channels one{channels.begin + v * B::kBytes, channels.part};
    Sums32<B> total = {{B::zero(), B::zero(), B::zero(), B::zero()}};
    for_window_rows(p, index, [&](const uint8_t* row) OCTAVO_INLINE {
      for (int32_t w = 0; w < p.taps[2]; w += kMaxTaps16) {
        const int left = p.taps[2] - w;
        SumTile<B, kSigned, 1, 1> tile;
        tile.clear();
        tile.add_row(p, row + w * p.tap_stride[2], left < kMaxTaps16 ? left : kMaxTaps16, one);
        const Sums32<B> wide = widen<B, kSigned>(tile.sums[0][0]);
        unroll<4>([&](auto j) OCTAVO_INLINE { total.q[j] = B::add32(total.q[j], wide.q[j]); });
      }
    });
    one.store(out, 0, mean(total));
  }
}

template <typename B, bool kSigned>
void avg_pool_vectors(const PoolArgs* args) {
  const PoolArgs& p = *args;
  const bool large = int64_t{p.taps[0]} * p.taps[1] * p.taps[2] > kMaxTaps16;
  for_tiles<B>(p.pixels, p.channels,
               [&](auto pixels, auto vectors, int64_t first, auto channels) OCTAVO_INLINE {
                 constexpr int kPixels = decltype(pixels)(), kVectors = decltype(vectors)();
                 if (large) {
                   for (int i = 0; i < kPixels; ++i) {
                     avg_large_window<B, kSigned>(p, first + i, kVectors, channels);
                   }
                   return;
                 }
                 SumTile<B, kSigned, kPixels, kVectors> tile;
                 tile.clear();
                 for_window_rows(p, first, [&](const uint8_t* row) OCTAVO_INLINE {
                   tile.add_row(p, row, p.taps[2], channels);
                 });
                 const Mean<B, kSigned> mean(p);
                 unroll<kPixels>([&](auto i) OCTAVO_INLINE {
                   uint8_t* out = output_pixel(p.out, p.out_stride, first + i);
                   unroll<kVectors>([&](auto v) OCTAVO_INLINE {
                     channels.store(out, v, mean(widen<B, kSigned>(tile.sums[i][v])));
                   });
                 });
               });
}

// One vector of channels: left and right pixels side by side meet their weights in vpmaddwd. int8
// is computed as uint8 with a zero point 128 higher.
//
// Registers: 4 sums, 2 inputs, 2 pairs, 1 product; zero, flip and kRows weights.
template <typename B, bool kSigned, int kRows, typename Channels>
static inline OCTAVO_INLINE void interpolate_pixel(const InterpolateArgs& p, int64_t index,
                                                   const Channels& channels) {
  using Vec = typename B::Vec;
  const Vec flip = B::set8(-128), none = B::zero();
  const int32_t zero_point = p.zero_point + (kSigned ? 128 : 0);
  const auto load = [&](const void* row, ptrdiff_t offset) OCTAVO_INLINE {
    const Vec in = channels.load(static_cast<const uint8_t*>(row) + offset, 0);
    return kSigned ? B::flip(in, flip) : in;
  };
  Vec sum[4];
  unroll<4>([&](auto j) OCTAVO_INLINE { sum[j] = B::set32(-zero_point * kInterpolationOne); });
  unroll<kRows>([&](auto r) OCTAVO_INLINE {
    const Vec a = load(p.rows[r], p.left[index]), b = load(p.rows[r], p.right[index]);
    const Vec w = B::set32(p.weights[index * kRows + r]);
    const Vec lo = B::unpack_lo8(a, b), hi = B::unpack_hi8(a, b);
    sum[0] = B::add32(sum[0], B::madd16(B::unpack_lo8(lo, none), w));
    sum[1] = B::add32(sum[1], B::madd16(B::unpack_hi8(lo, none), w));
    sum[2] = B::add32(sum[2], B::madd16(B::unpack_lo8(hi, none), w));
    sum[3] = B::add32(sum[3], B::madd16(B::unpack_hi8(hi, none), w));
  });
  const auto scale = B::set_float(1.0f / kInterpolationOne);
  const Vec zero = B::set32(zero_point);
  unroll<4>([&](auto j) OCTAVO_INLINE {
    sum[j] = B::add32(B::round(B::mul(B::to_float(sum[j]), scale)), zero);
  });
  const Vec out = B::pack16_u8(B::pack32(sum[0], sum[1]), B::pack32(sum[2], sum[3]));
  channels.store(output_pixel(p.out, p.out_stride, index), 0, kSigned ? B::flip(out, flip) : out);
}

template <typename B, bool kSigned, int kRows>
static void interpolate_rows(const InterpolateArgs& p) {
  for (int64_t i = 0; i < p.pixels; ++i) {
    if (p.channels < B::kBytes) {
      interpolate_pixel<B, kSigned, kRows>(p, i, Channels8Bit<B, true>{0, p.channels});
      continue;
    }
    for (int c = 0; c < p.channels; c += B::kBytes) {
      const int begin = c + B::kBytes <= p.channels ? c : p.channels - B::kBytes;
      interpolate_pixel<B, kSigned, kRows>(p, i, Channels8Bit<B, false>{begin, 0});
    }
  }
}

template <typename B, bool kSigned>
void interpolate_vectors(const InterpolateArgs* args) {
  if (args->row_count == 1) return interpolate_rows<B, kSigned, 1>(*args);
  if (args->row_count == 2) return interpolate_rows<B, kSigned, 2>(*args);
  interpolate_rows<B, kSigned, 4>(*args);
}

}  // namespace
}  // namespace octavo
