// Depthwise convolution with any window: whatever the driver points to is multiplied, four taps at
// a time.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/vector_shared/depthwise_block-inl.h"
#include "isa/vector_shared/depthwise_tile-inl.h"

namespace octavo {
namespace {

// Groups of four taps whose weights are kept interleaved; accumulators of larger windows pass
// through memory.
constexpr int kQuadsTogether = 16;

// Four taps of a block; those past the last are zero.
template <class L, typename Load>
static inline OCTAVO_INLINE void load_quad(int tap, int taps, const Load& load,
                                           typename Dot<L>::Dwords (&dwords)[4]) {
  typename L::Vec row[4];
  unroll<4>([&](auto i) OCTAVO_INLINE { row[i] = tap + i < taps ? load(tap + i) : L::zero(); });
  unroll<2>([&](auto h) OCTAVO_INLINE {
    typename Dot<L>::Dwords half[2];
    Dot<L>::template interleave<h>(row[0], row[1], row[2], row[3], half);
    dwords[2 * h] = half[0];
    dwords[2 * h + 1] = half[1];
  });
}

// Register budget: 4 accumulators, 4 rows, 4 vectors of dwords; weights come from memory.
template <class L, bool kSigned, bool kPartial>
__attribute__((noinline)) void depthwise_any_block(const WindowArgs& args, int channel, int n) {
  using Vec = typename L::Vec;
  using D = Dot<L, kSigned>;
  const BlockChannels<L> channels(args, channel);
  const Requantize8<L> requantize(args, stays_int32(args, args.taps, channel, n));
  const bool plain8 = is_plain8(args);
  const auto* w = static_cast<const int8_t*>(args.w) + ptrdiff_t{channel} * args.taps;
  const ptrdiff_t lane = ptrdiff_t{args.taps} * kDepthwiseBlock;
  DepthwiseTile<L> tile;
  typename D::Weights weights[kQuadsTogether][4];
  char* out = static_cast<char*>(args.out);
  for (int first = 0; first < args.taps; first += 4 * kQuadsTogether) {
    const int end = args.taps - first < 4 * kQuadsTogether ? args.taps : first + 4 * kQuadsTogether;
    for (int tap = first; tap < end; tap += 4) {
      typename D::Dwords dwords[4];
      load_quad<L>(
          tap, end, [&](int t) { return L::load_lanes(w + t * kDepthwiseBlock, lane); }, dwords);
      for (int q = 0; q < 4; ++q) weights[(tap - first) / 4][q] = D::weights(dwords[q]);
    }
    for (int p = 0; p < args.pixels; ++p) {
      const uint8_t* const* rows = args.rows + static_cast<ptrdiff_t>(p) * args.taps;
      Vec acc[4];
      unroll<4>([&](auto q)
                    OCTAVO_INLINE { acc[q] = first == 0 ? channels.init[q] : tile.get(p, q); });
      const auto add_quad = [&](int tap, int last) OCTAVO_INLINE {
        typename D::Dwords dwords[4];
        load_quad<L>(
            tap, last,
            [&](int t) OCTAVO_INLINE {
              return D::activations(Joined<L, 1>::template load<1, kPartial>(rows + t, channel, n));
            },
            dwords);
        unroll<4>([&](auto q) OCTAVO_INLINE {
          acc[q] = D::template dot<q>(acc[q], D::bytes(dwords[q]), weights[(tap - first) / 4][q]);
        });
      };
      int tap = first;
      for (; tap + 4 <= end; tap += 4) add_quad(tap, tap + 4);
      if (tap < end) add_quad(tap, end);
      if (plain8 && end == args.taps) {
        const Vec bytes = requantize.bounded ? requantize_block<true>(requantize, acc, channels)
                                             : requantize_block<false>(requantize, acc, channels);
        Joined<L, 1>::template store<kPartial>(out + p * args.out_stride + channel, 0, bytes, n, 1);
      } else {
        tile.put(p, acc);
      }
    }
  }
  if (!plain8) store_tile<L, 1, kPartial>(tile, channels, args, {channel, n, 0, 0, args.pixels});
}

}  // namespace
}  // namespace octavo
