// What depthwise kernels do with a block of neighbouring channels, one vector of bytes wide.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/x86_shared/window_epilogue-inl.h"

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

// The epilogue's arrays, in the order of interleave()'s vectors.
template <class L>
struct BlockChannels {
  BlockChannels(const WindowArgs& args, int channel) {
    const Epilogue& e = *args.epilogue;
    for (int q = 0; q < 4; ++q) {
      init[q] = L::load_lanes(e.acc_init + channel + q * 4, 64);
      mult[q] = L::as_floats(L::load_lanes(e.mult + channel + q * 4, 64));
      bias[q] = L::as_floats(L::load_lanes(e.bias + channel + q * 4, 64));
    }
  }

  typename L::Vec init[4];
  typename L::Floats mult[4], bias[4];
};

// Stores one pixel of 8-bit outputs.
template <bool kPartial, class L>
static inline OCTAVO_INLINE void store_block(const Requantize8<L>& requantize,
                                             const typename L::Vec (&acc)[4],
                                             const BlockChannels<L>& channels, int n, char* out) {
  typename L::Vec steps[4];
  unroll<4>([&](auto q) OCTAVO_INLINE {
    steps[q] = requantize.steps(acc[q], channels.mult[q], channels.bias[q]);
  });
  const auto bytes = requantize.pack(steps[0], steps[1], steps[2], steps[3]);
  if constexpr (kPartial) {
    L::store_first(out, bytes, n);
  } else {
    L::store(out, bytes);
  }
}

// `n` activations of one pixel. Dot takes unsigned bytes, so int8 activations are offset by 128
// (WindowKernel::s8_offset).
template <class L, bool kSigned, bool kPartial>
static inline OCTAVO_INLINE typename L::Vec load_activations(const uint8_t* p, int n) {
  typename L::Vec v;
  if constexpr (kPartial) {
    v = L::load_first(p, n);
  } else {
    v = L::load(p);
  }
  return kSigned ? L::bit_xor(v, L::set8(0x80)) : v;
}

template <bool kValue>
struct Bool {
  static constexpr bool value = kValue;
};

// Calls visit(vector width, whether the block is less than that, first channel, channels).
template <typename Visit>
static inline void for_channel_blocks(int begin, int end, const Visit& visit) {
  int channel = begin;
#if defined(__AVX512BW__)
  for (; end - channel >= 64; channel += 64) visit(Window512{}, Bool<false>{}, channel, 64);
  const int n = end - channel;
  if (n > 32) {
    visit(Window512{}, Bool<true>{}, channel, n);
  } else if (n > 16) {
    visit(Window256{}, Bool<true>{}, channel, n);
  } else if (n > 0) {
    visit(Window128{}, Bool<true>{}, channel, n);
  }
#else
  for (; end - channel >= 32; channel += 32) visit(Window256{}, Bool<false>{}, channel, 32);
  for (; end - channel >= 16; channel += 16) visit(Window128{}, Bool<false>{}, channel, 16);
  if (end > channel) visit(Window128{}, Bool<true>{}, channel, end - channel);
#endif
}

}  // namespace
}  // namespace octavo
