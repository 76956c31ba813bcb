// Outputs of depthwise kernels that are not plain bytes: accumulators wait in memory, so that the
// code for them stays out of the kernels' loops.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/vector_shared/depthwise_block-inl.h"

namespace octavo {
namespace {

// Pixels of one block of channels, each four vectors in interleave()'s order.
template <class L>
struct DepthwiseTile {
  using Vec = typename L::Vec;
  static constexpr int kInts = L::kBytes / 4;  // of a vector

  inline OCTAVO_INLINE void put(int pixel, const Vec (&acc)[4]) {
    unroll<4>([&](auto q) OCTAVO_INLINE { L::store(&ints[pixel][q * kInts], acc[q]); });
  }
  inline OCTAVO_INLINE Vec get(int pixel, int q) const { return L::load(&ints[pixel][q * kInts]); }

  alignas(64) int32_t ints[kTilePixels][L::kBytes];
};

// A tile's place: pixels [first, first + pixels) of output rows [row, row + J) as far as there are
// so many, channels [channel, channel + n).
struct TilePlace {
  int channel, n, row, first, pixels;
};

// Register budget: 4 outputs, 8 of scale and bias, 2 bounds.
template <class L, int J>
static inline void store_floats_tile(const DepthwiseTile<L>& tile, const BlockChannels<L, J>& block,
                                     const WindowArgs& args, const TilePlace& at) {
  using Vec = typename L::Vec;
  constexpr int kInts = DepthwiseTile<L>::kInts, kChannels = L::kBytes / J;
  char* to[4];
  int bytes[4];
  bool whole = true;
  for (int v = 0; v < 4; ++v) {
    const int row = at.row + v * kInts / kChannels, channel = v * kInts % kChannels;
    const int left = row < args.out_rows ? at.n - channel : 0;
    bytes[v] = 4 * (left < 0 ? 0 : left < kInts ? left : kInts);
    whole &= bytes[v] == L::kBytes;
    to[v] = output_pixel(args, row, at.first) + 4 * (at.channel + channel);
  }
  const auto lo = L::set_float(args.epilogue->lo), hi = L::set_float(args.epilogue->hi);
  for (int p = 0; p < at.pixels; ++p) {
    Vec x[4];
    unroll<4>([&](auto q) OCTAVO_INLINE {
      const auto sum = L::mul(L::to_float(tile.get(p, q)), block.mult[q]);
      // NaN passes through.
      x[q] = L::as_ints(L::min(hi, L::max(lo, L::add(sum, block.bias[q]))));
    });
    L::order_lanes(x);
    if (whole) {
      unroll<4>([&](auto v) OCTAVO_INLINE { L::store(to[v], x[v]); });
    } else {
      unroll<4>([&](auto v) OCTAVO_INLINE {
        if (bytes[v] > 0) L::store_first(to[v], x[v], bytes[v]);
      });
    }
    for (char*& next : to) next += args.out_stride;
  }
}

// 8-bit outputs with a residual. Register budget: 4 sums, 8 of scale and bias, 4 of the residual.
template <class L, int J, bool kPartial>
static inline void store_residual_tile(const DepthwiseTile<L>& tile,
                                       const BlockChannels<L, J>& block, const WindowArgs& args,
                                       const TilePlace& at) {
  using Vec = typename L::Vec;
  const Epilogue& e = *args.epilogue;
  const Requantize8<L> requantize(args, false);
  // int8 residuals are read 128 higher, as uint8.
  const int offset = e.add_signed ? 128 : 0;
  const auto flip = L::set8(offset), zero = L::set32(e.add_zero + offset);
  const auto scale = L::set_float(e.add_scale);
  const uint8_t* add[J];
  for (int j = 0; j < J; ++j) {
    const int row = at.row + j < args.out_rows ? at.row + j : at.row;
    add[j] = static_cast<const uint8_t*>(e.add) +
             (ptrdiff_t{args.m0} + ptrdiff_t{row} * args.pixels + at.first) * e.add_stride;
  }
  char* to = output_pixel(args, at.row, at.first) + at.channel;
  for (int p = 0; p < at.pixels; ++p, to += args.out_stride) {
    const Vec bytes = L::bit_xor(
        Joined<L, J>::template load<1, kPartial>(add, at.channel + p * e.add_stride, at.n), flip);
    Vec steps[4];
    unroll<2>([&](auto h) OCTAVO_INLINE {
      Vec dwords[2];
      interleave<L, h>(bytes, L::zero(), L::zero(), L::zero(), dwords);
      unroll<2>([&](auto i) OCTAVO_INLINE {
        constexpr int q = 2 * kIndex<decltype(h)> + i;
        const auto residual = L::mul(L::to_float(L::sub32(dwords[i], zero)), scale);
        const auto sum = L::add(L::to_float(tile.get(p, q)), block.bias[q]);
        steps[q] =
            L::to_int(L::guarded(requantize.guard, L::add(L::mul(sum, block.mult[q]), residual)));
      });
    });
    Joined<L, J>::template store<kPartial>(to, args.out_row_stride,
                                           requantize.pack(steps[0], steps[1], steps[2], steps[3]),
                                           at.n, args.out_rows - at.row);
  }
}

// Stores a tile's outputs of whatever kind, and leaves the tile in any order.
template <class L, int J, bool kPartial>
__attribute__((noinline)) void store_tile(DepthwiseTile<L>& tile, const BlockChannels<L, J>& block,
                                          const WindowArgs& args, const TilePlace& at) {
  if (args.kind == OutKind::kF32 && !args.epilogue->gelu)
    return store_floats_tile<L, J>(tile, block, args, at);
  if (kind_bytes(args.kind) == 1) return store_residual_tile<L, J, kPartial>(tile, block, args, at);
  for (int p = 0; p < at.pixels; ++p) {
    typename L::Vec acc[4];
    for (int q = 0; q < 4; ++q) acc[q] = tile.get(p, q);
    L::order_lanes(acc);
    tile.put(p, acc);
  }
  for (int j = 0; j < J && at.row + j < args.out_rows; ++j) {
    store_accumulators(tile.ints[0] + j * (L::kBytes / J), L::kBytes, args, at.channel, at.n,
                       at.pixels, output_pixel(args, at.row + j, at.first),
                       args.m0 + (at.row + j) * args.pixels + at.first);
  }
}

}  // namespace
}  // namespace octavo
