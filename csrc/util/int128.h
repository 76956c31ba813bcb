// 128-bit integers where the compiler has them but perhaps no library of functions for them, as
// clang has none on Windows: sums and products need none.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace octavo {

__extension__ typedef __int128 Int128;
__extension__ typedef unsigned __int128 UInt128;

// The double nearest to `value`, which is not negative; the even one of two.
inline double to_double(Int128 value) {
  const auto high = static_cast<uint64_t>(static_cast<UInt128>(value) >> 64);
  if (high == 0) return static_cast<double>(static_cast<uint64_t>(value));
  // 64 leading bits, the last of which says whether any below is set: a double takes 53, so that
  // this rounds as all of them would.
  const int below = 64 - std::countl_zero(high);
  const UInt128 lost = static_cast<UInt128>(value) & ((UInt128{1} << below) - 1);
  const auto leading = static_cast<uint64_t>(static_cast<UInt128>(value) >> below) | (lost != 0);
  return std::ldexp(static_cast<double>(leading), below);
}

}  // namespace octavo
