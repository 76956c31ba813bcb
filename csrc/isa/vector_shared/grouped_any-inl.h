// Small groups with any window: whatever the driver points to is multiplied, tap by tap.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/vector_shared/grouped_block-inl.h"

namespace octavo {
namespace {

// Register budget: P * kBlockVectors <= 4 accumulators, kBlockVectors of picks and of weights, one
// of bytes.
template <class L, int P, bool kSigned, bool kPartial, typename Finish>
static inline OCTAVO_INLINE void grouped_any_pixels(const WindowArgs& args,
                                                    const GroupedBlocks<L, 1>& block, int pixel,
                                                    const Finish& finish) {
  using Vec = typename L::Vec;
  using D = GroupDot<L, kSigned>;
  Vec acc[P][kBlockVectors<L>];
  unroll<P>([&](auto p) OCTAVO_INLINE {
    unroll<kBlockVectors<L>>([&](auto v) OCTAVO_INLINE { acc[p][v] = block.init_vector(v); });
  });
  const uint8_t* const* rows = args.rows + static_cast<ptrdiff_t>(pixel) * args.taps;
  for (int chunk = 0; chunk < args.chunks; ++chunk) {
    Vec pick[kBlockVectors<L>];
    unroll<kBlockVectors<L>>([&](auto v) OCTAVO_INLINE { pick[v] = block.pick(chunk, v); });
    const int load = block.block[0]->load[chunk];
    for (int t = 0; t < args.taps; ++t) {
      typename D::Weights weights[kBlockVectors<L>];
      unroll<kBlockVectors<L>>([&](auto v) OCTAVO_INLINE {
        weights[v] = D::weights(block.weights(args.chunks, t * args.chunks + chunk, v));
      });
      unroll<P>([&](auto p) OCTAVO_INLINE {
        const auto bytes = load_group<L, kSigned, kPartial>(
            rows[static_cast<ptrdiff_t>(p) * args.taps + t] + load, args.in_channels);
        unroll<kBlockVectors<L>>([&](auto v) OCTAVO_INLINE {
          const auto a = D::bytes(L::pick_bytes(bytes, pick[v]));
          acc[p][v] = D::dot(acc[p][v], a, weights[v]);
        });
      });
    }
  }
  finish(pixel, acc);
}

template <class L, bool kSigned, bool kPartial, typename Finish>
static inline OCTAVO_INLINE void grouped_any_run(const WindowArgs& args,
                                                 const GroupedBlocks<L, 1>& block,
                                                 const Finish& finish) {
  constexpr int kPixels = 4 / kBlockVectors<L>;
  int pixel = 0;
  for (; pixel + kPixels <= args.pixels; pixel += kPixels)
    grouped_any_pixels<L, kPixels, kSigned, kPartial>(args, block, pixel, finish);
  for (; pixel < args.pixels; ++pixel)
    grouped_any_pixels<L, 1, kSigned, kPartial>(args, block, pixel, finish);
}

template <class L, bool kSigned, bool kPartial>
__attribute__((noinline)) void grouped_any_block(const WindowArgs& args, int index) {
  const GroupedBlocks<L, 1> block(args, index);
  char* out = static_cast<char*>(args.out);
  const bool plain8 = is_plain8(args);
  const Requantize8<L> requantize(args, plain8 && block.stay_int32(args));
  GroupedTile<L, 1> tile;
  grouped_any_run<L, kSigned, kPartial>(args, block, [&](int pixel, const auto& acc) OCTAVO_INLINE {
    constexpr int P = sizeof acc / sizeof acc[0];
    char* to = out + pixel * args.out_stride;
    if (requantize.bounded) [[likely]] {
      block.template store8<true, P>(requantize, acc, to, args.out_stride);
    } else if (plain8) {
      block.template store8<false, P>(requantize, acc, to, args.out_stride);
    } else {
      unroll<P>([&](auto p) OCTAVO_INLINE { tile.put(pixel + p, acc[p]); });
    }
  });
  if (!plain8) tile.store(args, block, args.pixels, out, args.m0);
}

template <class L, bool kSigned>
void grouped_any(const WindowArgs* args) {
  for (int index = args->begin; index < args->end; ++index) {
    if (args->in_channels >= 16) {
      grouped_any_block<L, kSigned, false>(*args, index);
    } else {
      grouped_any_block<L, kSigned, true>(*args, index);
    }
  }
}

}  // namespace
}  // namespace octavo
