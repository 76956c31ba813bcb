// What depthwise kernels do with a block of neighbouring channels, one vector of bytes wide.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/vector_shared/window_epilogue-inl.h"
#include "isa/vector_shared/window_join-inl.h"

namespace octavo {
namespace {

// The epilogue's arrays, in the order of interleave()'s vectors, for J rows side by side.
template <class L, int J = 1>
struct BlockChannels {
  BlockChannels(const WindowArgs& args, int channel) {
    const Epilogue& e = *args.epilogue;
    for (int q = 0; q < 4; ++q) {
      init[q] = Joined<L, J>::load_lanes(e.acc_init + channel + q * 4, 64);
      mult[q] = L::as_floats(Joined<L, J>::load_lanes(e.mult + channel + q * 4, 64));
      bias[q] = L::as_floats(Joined<L, J>::load_lanes(e.bias + channel + q * 4, 64));
    }
  }

  typename L::Vec init[4];
  typename L::Floats mult[4], bias[4];
};

// One pixel of 8-bit outputs, of each row.
template <bool kBounded, class L, int J>
static inline OCTAVO_INLINE typename L::Vec requantize_block(const Requantize8<L>& requantize,
                                                             const typename L::Vec (&acc)[4],
                                                             const BlockChannels<L, J>& channels) {
  typename L::Vec steps[4];
  unroll<4>([&](auto q) OCTAVO_INLINE {
    steps[q] = requantize.template steps<kBounded>(acc[q], channels.mult[q], channels.bias[q]);
  });
  return requantize.pack(steps[0], steps[1], steps[2], steps[3]);
}

}  // namespace
}  // namespace octavo
