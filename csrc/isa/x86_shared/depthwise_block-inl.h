// What depthwise kernels do with a block of neighbouring channels, one vector of bytes wide.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/window_epilogue-inl.h"
#include "isa/x86_shared/window_join-inl.h"

namespace octavo {
namespace {

// K bytes for each channel of a block (K <= 4 of them in `first`, the fifth alone in `rest`) as
// dwords. H chooses vectors q = 0, 1 or 2, 3 of the order that window_lanes-inl.h describes.
template <class L, int K, int H>
static inline OCTAVO_INLINE void interleave(const typename L::Vec (&row)[K],
                                            typename L::Vec (&first)[2],
                                            typename L::Vec (&rest)[2]) {
  const auto half8 = [](auto a, auto b)
                         OCTAVO_INLINE { return H == 0 ? L::low8(a, b) : L::high8(a, b); };
  const auto r01 = half8(row[0], row[1]);
  const auto r23 = half8(row[2], K > 3 ? row[K > 3 ? 3 : 0] : L::zero());
  first[0] = L::low16(r01, r23);
  first[1] = L::high16(r01, r23);
  if constexpr (K == 5) {
    const auto r4 = half8(row[4], L::zero());
    rest[0] = L::low16(r4, L::zero());
    rest[1] = L::high16(r4, L::zero());
  }
}

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
template <class L, int J>
static inline OCTAVO_INLINE typename L::Vec requantize_block(const Requantize8<L>& requantize,
                                                             const typename L::Vec (&acc)[4],
                                                             const BlockChannels<L, J>& channels) {
  typename L::Vec steps[4];
  unroll<4>([&](auto q) OCTAVO_INLINE {
    steps[q] = requantize.steps(acc[q], channels.mult[q], channels.bias[q]);
  });
  return requantize.pack(steps[0], steps[1], steps[2], steps[3]);
}

}  // namespace
}  // namespace octavo
