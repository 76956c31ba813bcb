// What the window kernels ask of an architecture: a vector class L (Window128, WindowNeon, ...) and
// what is declared here for it.
//
// L works within parts of 16 bytes, as the unpack instructions of x86 do. Four rows of bytes that
// are interleaved into dwords come out as four vectors; part l of vector q holds channels l * 16 +
// q * 4 to + 3. Packing the results back undoes that order.
//
// L::guard() and guarded() leave of a float's bounds what a conversion to int32 needs beside
// saturation behind it: L::to_int(guarded(guard, x)) saturates to where x does, and NaN to the
// lower bound or below.
#pragma once

#include <cstdint>
#include <cstring>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"

namespace octavo {
namespace {

// Sums of products of four activations and four weights of a channel, exactly. `activations` brings
// loaded bytes to the type that is multiplied (WindowKernel::a_offset); Weights are the same for
// both types.
//
// Dot multiplies what interleave() or join() made of rows (Dwords), Q being the vector of the four.
// With kPairs, two of the four bytes cost a multiplication (dot_even) and the others another
// (dot_odd): 0 and 2, 1 and 3 of interleave(), the last of join() being among the odd ones.
template <class L, bool kSigned = false>
struct Dot;

// GroupDot multiplies bytes that pick_bytes() made of a pixel, lane i being four bytes for channel
// i. With kArranges it wants picks and weights in an order of its own (`arrange`).
template <class L, bool kSigned = false>
struct GroupDot;

// Stores `rows` rows of accumulators, [rows][acc_stride], acc_init included, as the first rows of a
// tile.
static void store_window_rows(const int32_t* acc, ptrdiff_t acc_stride, const GemmArgs& g,
                              int rows);

// The first n (1 .. 15) bytes at p, and zeros.
struct FirstBytes {
  uint64_t low, high;
};
static inline OCTAVO_INLINE FirstBytes load_first_bytes(const void* p, int n) {
  const char* from = static_cast<const char*>(p);
  uint64_t low = 0, high = 0;
  if (n >= 8) {
    std::memcpy(&low, from, 8);
    if (n > 8) {
      std::memcpy(&high, from + n - 8, 8);
      high >>= 8 * (16 - n);
    }
  } else if (n >= 4) {
    uint32_t first, last;
    std::memcpy(&first, from, 4);
    std::memcpy(&last, from + n - 4, 4);
    low = first | uint64_t{last} << (8 * (n - 4));
  } else {
    low = static_cast<uint8_t>(from[0]);
    if (n > 1) low |= uint64_t{static_cast<uint8_t>(from[1])} << 8;
    if (n > 2) low |= uint64_t{static_cast<uint8_t>(from[2])} << 16;
  }
  return {low, high};
}

// Bytes of a and b in turn: the first half (H = 0) or the second (H = 1) of each part.
template <class L, int H>
static inline OCTAVO_INLINE typename L::Vec interleave_bytes(typename L::Vec a, typename L::Vec b) {
  return H == 0 ? L::low8(a, b) : L::high8(a, b);
}

// Four bytes of each channel of a block as dwords: vectors q = 0, 1 (H = 0) or 2, 3 (H = 1).
template <class L, int H>
static inline OCTAVO_INLINE void interleave(typename L::Vec a, typename L::Vec b, typename L::Vec c,
                                            typename L::Vec d, typename L::Vec (&dwords)[2]) {
  const auto ab = interleave_bytes<L, H>(a, b), cd = interleave_bytes<L, H>(c, d);
  dwords[0] = L::low16(ab, cd);
  dwords[1] = L::high16(ab, cd);
}

// How Dot lays out bytes where it multiplies whole dwords.
template <class L>
struct DwordOrder {
  using Vec = typename L::Vec;
  using Dwords = Vec;

  template <int H>
  static inline OCTAVO_INLINE void interleave(Vec a, Vec b, Vec c, Vec d, Dwords (&dwords)[2]) {
    octavo::interleave<L, H>(a, b, c, d, dwords);
  }
  // Of bytes that are interleaved by pairs.
  static inline OCTAVO_INLINE void join(Vec ab, Vec cd, Dwords (&dwords)[2]) {
    dwords[0] = L::low16(ab, cd);
    dwords[1] = L::high16(ab, cd);
  }
};

}  // namespace
}  // namespace octavo
