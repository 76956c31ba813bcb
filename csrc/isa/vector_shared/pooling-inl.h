// Pooling on vectors of any width; B is one of the Bytes vectors (pooling_<vectors>-inl.h).
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
  if (pixels < kTile) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) columns(Index<1>(), pixel);
    return;
  }
  for (int64_t pixel = 0; pixel < pixels; pixel += kTile) {
    columns(Index<kTile>(), pixel + kTile <= pixels ? pixel : pixels - kTile);
  }
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

// Where the taps of a window lie, relative to its first: one loop instead of three whose lengths
// are guessed wrong at every pixel.
struct TapOffsets {
  static constexpr int kMost = 64;
  // The first `width` taps of each row.
  TapOffsets(const PoolArgs& p, int32_t width) {
    for_window_rows(p, 0, [&](const uint8_t* row) OCTAVO_INLINE {
      const ptrdiff_t first = row - static_cast<const uint8_t*>(p.in);
      for (int32_t w = 0; w < width; ++w) at[count++] = first + w * p.tap_stride[2];
    });
  }
  static bool fit(const PoolArgs& p) { return int64_t{p.taps[0]} * p.taps[1] * p.taps[2] <= kMost; }
  int count = 0;
  ptrdiff_t at[kMost];
};

// Registers: 4 maxima and 1 input.
template <typename B, bool kSigned, int kPixels, int kVectors, typename Channels>
struct MaxTile {
  using Vec = typename B::Vec;
  OCTAVO_INLINE explicit MaxTile(const Channels& channels) : channels(channels) {
    unroll<kPixels>([&](auto i) OCTAVO_INLINE {
      unroll<kVectors>([&](auto v) OCTAVO_INLINE { best[i][v] = B::set8(kSigned ? -128 : 0); });
    });
  }
  OCTAVO_INLINE void add(const PoolArgs& p, const uint8_t* tap) {
    unroll<kPixels>([&](auto i) OCTAVO_INLINE {
      unroll<kVectors>([&](auto v) OCTAVO_INLINE {
        const Vec in = channels.load(tap + i * p.in_stride, v);
        best[i][v] = kSigned ? B::max_s8(best[i][v], in) : B::max_u8(best[i][v], in);
      });
    });
  }
  OCTAVO_INLINE void store(const PoolArgs& p, int64_t first) const {
    unroll<kPixels>([&](auto i) OCTAVO_INLINE {
      uint8_t* out = output_pixel(p.out, p.out_stride, first + i);
      unroll<kVectors>([&](auto v) OCTAVO_INLINE { channels.store(out, v, best[i][v]); });
    });
  }
  const Channels& channels;
  Vec best[kPixels][kVectors];
};

// Windows three pixels wide whose neighbours share one or two columns: 4 output pixels from the
// maxima of the columns under them, each computed once. Loads bound this kernel.
//
// Registers: 6 or 9 columns and 1 input.
template <typename B, bool kSigned, int kStep>
static void max_three_wide(const PoolArgs& p) {
  using Vec = typename B::Vec;
  const auto larger = [](Vec a, Vec b)
                          OCTAVO_INLINE { return kSigned ? B::max_s8(a, b) : B::max_u8(a, b); };
  constexpr int kPixels = 4, kColumns = (kPixels - 1) * kStep + 3;
  const TapOffsets rows(p, 1);
  const auto four = [&](int64_t first, const auto& channels) OCTAVO_INLINE {
    const uint8_t* window = static_cast<const uint8_t*>(p.in) + first * p.in_stride;
    Vec best[kColumns];
    unroll<kColumns>(
        [&](auto c) OCTAVO_INLINE { best[c] = channels.load(window + c * p.tap_stride[2], 0); });
    for (int r = 1; r < rows.count; ++r) {
      const uint8_t* row = window + rows.at[r];
      unroll<kColumns>([&](auto c) OCTAVO_INLINE {
        best[c] = larger(best[c], channels.load(row + c * p.tap_stride[2], 0));
      });
    }
    unroll<kPixels>([&](auto i) OCTAVO_INLINE {
      constexpr int kFirst = decltype(i)() * kStep;
      const Vec out = larger(larger(best[kFirst], best[kFirst + 1]), best[kFirst + 2]);
      channels.store(output_pixel(p.out, p.out_stride, first + i), 0, out);
    });
  };
  for (int64_t i = 0; i < p.pixels; i += kPixels) {
    const int64_t first = i + kPixels <= p.pixels ? i : p.pixels - kPixels;
    if (p.channels < B::kBytes) {
      four(first, Channels8Bit<B, true>{0, p.channels});
      continue;
    }
    for (int c = 0; c < p.channels; c += B::kBytes) {
      const int begin = c + B::kBytes <= p.channels ? c : p.channels - B::kBytes;
      four(first, Channels8Bit<B, false>{begin, 0});
    }
  }
}

template <typename B, bool kSigned>
void max_pool_vectors(const PoolArgs* args) {
  const PoolArgs& p = *args;
  const bool few = TapOffsets::fit(p);
  if (few && p.taps[2] == 3 && p.taps[0] > 0 && p.taps[1] > 0 && p.pixels >= 4) {
    if (p.in_stride == p.tap_stride[2]) return max_three_wide<B, kSigned, 1>(p);
    if (p.in_stride == 2 * p.tap_stride[2]) return max_three_wide<B, kSigned, 2>(p);
  }
  const TapOffsets taps(p, few ? p.taps[2] : 0);
  for_tiles<B>(p.pixels, p.channels,
               [&](auto pixels, auto vectors, int64_t first, auto channels) OCTAVO_INLINE {
                 constexpr int kPixels = decltype(pixels)(), kVectors = decltype(vectors)();
                 MaxTile<B, kSigned, kPixels, kVectors, decltype(channels)> tile(channels);
                 const uint8_t* window = static_cast<const uint8_t*>(p.in) + first * p.in_stride;
                 for (int t = 0; t < taps.count; ++t) tile.add(p, window + taps.at[t]);
                 if (!few) {
                   for_window_rows(p, first, [&](const uint8_t* tap) OCTAVO_INLINE {
                     for (int32_t w = 0; w < p.taps[2]; ++w, tap += p.tap_stride[2])
                       tile.add(p, tap);
                   });
                 }
                 tile.store(p, first);
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

// Adds the bytes of a and b. Where the class has no sums of two widths (B::kAddsWide), vpmaddubsw
// with ones adds neighbouring bytes, exactly: at most 510.
template <typename B, bool kSigned>
static inline OCTAVO_INLINE void add_pair(Sums16<B>& s, typename B::Vec a, typename B::Vec b,
                                          typename B::Vec ones) {
  if constexpr (B::kAddsWide) {
    s.lo = B::template add_lo8<kSigned>(B::template add_lo8<kSigned>(s.lo, a), b);
    s.hi = B::template add_hi8<kSigned>(B::template add_hi8<kSigned>(s.hi, a), b);
  } else {
    const auto pairs = [&](typename B::Vec v) OCTAVO_INLINE {
      return kSigned ? B::maddu8s8(ones, v) : B::maddu8s8(v, ones);
    };
    s.lo = B::add16(s.lo, pairs(B::unpack_lo8(a, b)));
    s.hi = B::add16(s.hi, pairs(B::unpack_hi8(a, b)));
  }
}

template <typename B, bool kSigned>
static inline OCTAVO_INLINE void add_one(Sums16<B>& s, typename B::Vec a, typename B::Vec ones) {
  if constexpr (B::kAddsWide) {
    s.lo = B::template add_lo8<kSigned>(s.lo, a);
    s.hi = B::template add_hi8<kSigned>(s.hi, a);
  } else if constexpr (kSigned) {
    add_pair<B, kSigned>(s, a, B::zero(), ones);
  } else {
    s.lo = B::add16(s.lo, B::unpack_lo8(a, B::zero()));
    s.hi = B::add16(s.hi, B::unpack_hi8(a, B::zero()));
  }
}

// 4 vectors of steps from the zero point as bytes. Packing and adding saturate, as clamping would.
template <typename B, bool kSigned>
static inline OCTAVO_INLINE typename B::Vec pack_steps(const typename B::Vec (&steps)[4],
                                                       typename B::Vec zero16) {
  const auto low = B::adds16(B::pack32(steps[0], steps[1]), zero16);
  const auto high = B::adds16(B::pack32(steps[2], steps[3]), zero16);
  return kSigned ? B::pack16_s8(low, high) : B::pack16_u8(low, high);
}

// zp + rne((sum - taps * zp) * scale), saturated. The float is below 2^31, since |sum| <= 255 *
// 2^23 and |scale| <= 1.
template <typename B, bool kSigned>
struct Mean {
  explicit Mean(const PoolArgs& p)
      : offset(B::set32(p.taps[0] * p.taps[1] * p.taps[2] * p.zero_point)),
        zero(B::set16(p.zero_point)),
        scale(B::set_float(p.scale)) {}

  typename B::Vec operator()(const Sums32<B>& sums) const {
    typename B::Vec steps[4];
    unroll<4>([&](auto j) OCTAVO_INLINE {
      steps[j] = B::round(B::mul(B::to_float(B::sub32(sums.q[j], offset)), scale));
    });
    return pack_steps<B, kSigned>(steps, zero);
  }

  typename B::Vec offset, zero;
  typename B::Floats scale;
};

// The sums of one tile: 4 vectors of channels.
//
// Registers: 8 sums, 2 inputs, 2 unpacked, ones and zero.
template <typename B, bool kSigned, int kPixels, int kVectors, typename Channels>
struct SumTile {
  using Vec = typename B::Vec;
  OCTAVO_INLINE explicit SumTile(const Channels& channels) : channels(channels), ones(B::set8(1)) {
    clear();
  }
  OCTAVO_INLINE void clear() {
    unroll<kPixels>([&](auto i) OCTAVO_INLINE {
      unroll<kVectors>([&](auto v) OCTAVO_INLINE { sums[i][v] = {B::zero(), B::zero()}; });
    });
  }
  OCTAVO_INLINE void add(const PoolArgs& p, const uint8_t* a, const uint8_t* b) {
    unroll<kPixels>([&](auto i) OCTAVO_INLINE {
      const ptrdiff_t at = i * p.in_stride;
      unroll<kVectors>([&](auto v) OCTAVO_INLINE {
        add_pair<B, kSigned>(sums[i][v], channels.load(a + at, v), channels.load(b + at, v), ones);
      });
    });
  }
  OCTAVO_INLINE void add(const PoolArgs& p, const uint8_t* a) {
    unroll<kPixels>([&](auto i) OCTAVO_INLINE {
      unroll<kVectors>([&](auto v) OCTAVO_INLINE {
        add_one<B, kSigned>(sums[i][v], channels.load(a + i * p.in_stride, v), ones);
      });
    });
  }
  OCTAVO_INLINE void add_row(const PoolArgs& p, const uint8_t* tap, int taps) {
    const ptrdiff_t step = p.tap_stride[2];
    for (; taps >= 2; taps -= 2, tap += 2 * step) add(p, tap, tap + step);
    if (taps) add(p, tap);
  }
  OCTAVO_INLINE void store(const PoolArgs& p, int64_t first) const {
    const Mean<B, kSigned> mean(p);
    unroll<kPixels>([&](auto i) OCTAVO_INLINE {
      uint8_t* out = output_pixel(p.out, p.out_stride, first + i);
      unroll<kVectors>([&](auto v) OCTAVO_INLINE {
        channels.store(out, v, mean(widen<B, kSigned>(sums[i][v])));
      });
    });
  }
  const Channels& channels;
  Vec ones;
  Sums16<B> sums[kPixels][kVectors];
};

constexpr int kMaxTaps16 = 256;  // 256 * 255 < 2^16, 256 * -128 = -2^15

// A window of more taps than 16-bit sums hold: these are widened every kMaxTaps16 taps, and at the
// ends of rows.
template <typename B, bool kSigned, int kVectors, typename Channels>
__attribute__((noinline)) void avg_large_window(const PoolArgs& p, int64_t index,
                                                const Channels& channels) {
  SumTile<B, kSigned, 1, kVectors, Channels> tile(channels);
  Sums32<B> total[kVectors];
  unroll<kVectors>([&](auto v) OCTAVO_INLINE {
    total[v] = {{B::zero(), B::zero(), B::zero(), B::zero()}};
  });
  for_window_rows(p, index, [&](const uint8_t* row) OCTAVO_INLINE {
    for (int32_t w = 0; w < p.taps[2]; w += kMaxTaps16) {
      const int left = p.taps[2] - w;
      tile.clear();
      tile.add_row(p, row + w * p.tap_stride[2], left < kMaxTaps16 ? left : kMaxTaps16);
      unroll<kVectors>([&](auto v) OCTAVO_INLINE {
        const Sums32<B> wide = widen<B, kSigned>(tile.sums[0][v]);
        unroll<4>([&](auto j)
                      OCTAVO_INLINE { total[v].q[j] = B::add32(total[v].q[j], wide.q[j]); });
      });
    }
  });
  const Mean<B, kSigned> mean(p);
  uint8_t* out = output_pixel(p.out, p.out_stride, index);
  unroll<kVectors>([&](auto v) OCTAVO_INLINE { channels.store(out, v, mean(total[v])); });
}

template <typename B, bool kSigned>
void avg_pool_vectors(const PoolArgs* args) {
  const PoolArgs& p = *args;
  if (TapOffsets::fit(p)) {
    const TapOffsets taps(p, p.taps[2]);
    for_tiles<B>(p.pixels, p.channels,
                 [&](auto pixels, auto vectors, int64_t first, auto channels) OCTAVO_INLINE {
                   constexpr int kPixels = decltype(pixels)(), kVectors = decltype(vectors)();
                   SumTile<B, kSigned, kPixels, kVectors, decltype(channels)> tile(channels);
                   const uint8_t* window = static_cast<const uint8_t*>(p.in) + first * p.in_stride;
                   int t = 0;
                   for (; t + 2 <= taps.count; t += 2)
                     tile.add(p, window + taps.at[t], window + taps.at[t + 1]);
                   if (t < taps.count) tile.add(p, window + taps.at[t]);
                   tile.store(p, first);
                 });
    return;
  }
  const bool large = int64_t{p.taps[0]} * p.taps[1] * p.taps[2] > kMaxTaps16;
  for_tiles<B>(p.pixels, p.channels,
               [&](auto pixels, auto vectors, int64_t first, auto channels) OCTAVO_INLINE {
                 constexpr int kVectors = decltype(vectors)();
                 for (int i = 0; i < pixels; ++i) {
                   if (large) {
                     avg_large_window<B, kSigned, kVectors>(p, first + i, channels);
                     continue;
                   }
                   SumTile<B, kSigned, 1, kVectors, decltype(channels)> tile(channels);
                   for_window_rows(p, first + i, [&](const uint8_t* row) OCTAVO_INLINE {
                     tile.add_row(p, row, p.taps[2]);
                   });
                   tile.store(p, first + i);
                 }
               });
}

}  // namespace
}  // namespace octavo
