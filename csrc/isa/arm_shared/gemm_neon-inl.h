// What the GEMM tiles of all ARM levels share: the ends of rows, and how tiles split into rows.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "abi/kernel_abi.h"
#include "abi/unroll.h"
#include "isa/arm_shared/epilogue_registers_neon-inl.h"

namespace octavo {
namespace {

// The first `count` (1 .. 8) bytes at p; zeros behind them.
static inline OCTAVO_INLINE uint64_t load_bytes8(const uint8_t* p, int count) {
  if (count >= 8) {
    uint64_t all;
    std::memcpy(&all, p, 8);
    return all;
  }
  if (count >= 4) {  // the first 4 and the last 4
    uint32_t first, last;
    std::memcpy(&first, p, 4);
    std::memcpy(&last, p + count - 4, 4);
    return first | uint64_t{last} << (8 * (count - 4));
  }
  return p[0] | uint64_t{p[count / 2]} << (8 * (count / 2)) |
         uint64_t{p[count - 1]} << (8 * (count - 1));
}

// The first `count` (1 .. 16) bytes at p; zeros behind them.
static inline OCTAVO_INLINE uint8x16_t load_bytes16(const uint8_t* p, int count) {
  const uint64_t low = load_bytes8(p, count < 8 ? count : 8);
  const uint64_t high = count > 8 ? load_bytes8(p + 8, count - 8) : 0;
  return vcombine_u8(vcreate_u8(low), vcreate_u8(high));
}

// Loads stay on their side of it: compilers that bring forward as many as they see need more
// registers than there are, and then accumulators live in memory.
static inline OCTAVO_INLINE void keep_loads_apart() { __asm__ volatile("" ::: "memory"); }

// Cuts a call's rows into the row counts that were compiled, largest first, down to 1:
// Tile::rows<MR>(g, row0) computes those from row0 on.
template <typename Tile, int MR, int... Rest>
static inline void gemm_split(const GemmArgs& g, int row0) {
  for (; g.m - row0 >= MR; row0 += MR) Tile::template rows<MR>(g, row0);
  if constexpr (sizeof...(Rest) > 0) gemm_split<Tile, Rest...>(g, row0);
}

}  // namespace
}  // namespace octavo
