// Depthwise convolution with any window: whatever the driver points to is multiplied, four taps at
// a time.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/depthwise_block-inl.h"
#include "isa/x86_shared/depthwise_tile-inl.h"

namespace octavo {
namespace {

// Groups of four taps whose weights are kept interleaved; accumulators of larger windows pass
// through memory.
constexpr int kQuadsTogether = 16;

// Four taps of a block; those past the last are zero.
template <class L, typename Load>
static inline OCTAVO_INLINE void load_quad(int tap, int taps, const Load& load,
                                           typename L::Vec (&dwords)[4]) {
  typename L::Vec row[4];
  unroll<4>([&](auto i) OCTAVO_INLINE { row[i] = tap + i < taps ? load(tap + i) : L::zero(); });
  unroll<2>([&](auto h) OCTAVO_INLINE {
    typename L::Vec half[2];
    interleave<L, h>(row[0], row[1], row[2], row[3], half);
    dwords[2 * h] = half[0];
    dwords[2 * h + 1] = half[1];
  });
}

// Register budget: 4 accumulators, 4 rows, 4 vectors of dwords; weights come from memory.
template <class L, bool kSigned, bool kPartial>
__attribute__((noinline)) void depthwise_any_block(const WindowArgs& args, int channel, int n) {
  using Vec = typename L::Vec;
  const BlockChannels<L> channels(args, channel);
  const Requantize8<L> requantize(args, stays_int32(args, args.taps, channel, n));
  const bool plain8 = is_plain8(args);
  const auto* w = static_cast<const int8_t*>(args.w) + ptrdiff_t{channel} * args.taps;
  const ptrdiff_t lane = ptrdiff_t{args.taps} * kDepthwiseBlock;
  DepthwiseTile<L> tile;
  typename Dot<L>::Weights weights[kQuadsTogether][4];
  char* out = static_cast<char*>(args.out);
  for (int first = 0; first < args.taps; first += 4 * kQuadsTogether) {
    const int end = args.taps - first < 4 * kQuadsTogether ? args.taps : first + 4 * kQuadsTogether;
    for (int tap = first; tap < end; tap += 4) {
      Vec dwords[4];
      load_quad<L>(
          tap, end, [&](int t) { return L::load_lanes(w + t * kDepthwiseBlock, lane); }, dwords);
      for (int q = 0; q < 4; ++q) weights[(tap - first) / 4][q] = Dot<L>::weights(dwords[q]);
    }
    for (int p = 0; p < args.pixels; ++p) {
      const uint8_t* const* rows = args.rows + static_cast<ptrdiff_t>(p) * args.taps;
      Vec acc[4];
      unroll<4>([&](auto q)
                    OCTAVO_INLINE { acc[q] = first == 0 ? channels.init[q] : tile.get(p, q); });
      const auto add_quad = [&](int tap, int last) OCTAVO_INLINE {
        Vec dwords[4];
        load_quad<L>(
            tap, last,
            [&](int t) OCTAVO_INLINE {
              const Vec v = Joined<L, 1>::template load<1, kPartial>(rows + t, channel, n);
              // int8 activations are offset by 128 (WindowKernel::a_offset).
              return kSigned ? L::bit_xor(v, L::set8(0x80)) : v;
            },
            dwords);
        unroll<4>([&](auto q) OCTAVO_INLINE {
          acc[q] = Dot<L>::dot(acc[q], Dot<L>::bytes(dwords[q]), weights[(tap - first) / 4][q]);
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

// Cuts channels into blocks of the widest vectors that are more than half full.
template <bool kSigned>
void depthwise_any(const WindowArgs* args) {
  int channel = args->begin;
#if defined(__AVX512BW__)
  for (; args->end - channel >= 64; channel += 64)
    depthwise_any_block<Window512, kSigned, false>(*args, channel, 64);
  const int n = args->end - channel;
  if (n > 32) {
    depthwise_any_block<Window512, kSigned, true>(*args, channel, n);
  } else if (n > 16) {
    depthwise_any_block<Window256, kSigned, true>(*args, channel, n);
  } else if (n > 0) {
    depthwise_any_block<Window128, kSigned, true>(*args, channel, n);
  }
#else
  for (; args->end - channel >= 32; channel += 32)
    depthwise_any_block<Window256, kSigned, false>(*args, channel, 32);
  for (; args->end - channel >= 16; channel += 16)
    depthwise_any_block<Window128, kSigned, false>(*args, channel, 16);
  if (args->end > channel)
    depthwise_any_block<Window128, kSigned, true>(*args, channel, args->end - channel);
#endif
}

constexpr WindowKernel depthwise_any_row(const char* name) {
  return {name,    WindowKind::kDepthwise, 0, 0, {depthwise_any<false>, depthwise_any<true>},
          {0, 128}};
}

}  // namespace
}  // namespace octavo
