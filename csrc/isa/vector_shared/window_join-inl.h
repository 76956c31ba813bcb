// Few channels of J output rows side by side in one vector, so that no part of it is idle.
#pragma once

#include "abi/unroll.h"

namespace octavo {
namespace {

template <class L, int J>
struct Joined {
  using Vec = typename L::Vec;
  using Half = Joined<typename L::Half, J / 2>;

  // Lanes of a block's constants, for each row.
  static inline Vec load_lanes(const void* p, ptrdiff_t stride) {
    const auto half = Half::load_lanes(p, stride);
    return L::join(half, half);
  }
  // The first n bytes at row[0], row[STEP] and so on.
  template <int STEP, bool kPartial>
  static inline OCTAVO_INLINE Vec load(const uint8_t* const* row, ptrdiff_t offset, int n) {
    return L::join(Half::template load<STEP, kPartial>(row, offset, n),
                   Half::template load<STEP, kPartial>(row + J / 2 * STEP, offset, n));
  }
  // Stores n bytes for each of the first `rows` rows.
  template <bool kPartial>
  static inline OCTAVO_INLINE void store(char* out, ptrdiff_t row_stride, Vec v, int n, int rows) {
    Half::template store<kPartial>(out, row_stride, L::low_half(v), n, rows);
    if (rows > J / 2)
      Half::template store<kPartial>(out + J / 2 * row_stride, row_stride, L::high_half(v), n,
                                     rows - J / 2);
  }
};

template <class L>
struct Joined<L, 1> {
  using Vec = typename L::Vec;

  static inline Vec load_lanes(const void* p, ptrdiff_t stride) { return L::load_lanes(p, stride); }
  template <int, bool kPartial>
  static inline OCTAVO_INLINE Vec load(const uint8_t* const* row, ptrdiff_t offset, int n) {
    if constexpr (kPartial) {
      return L::load_first(row[0] + offset, n);
    } else {
      return L::load(row[0] + offset);
    }
  }
  template <bool kPartial>
  static inline OCTAVO_INLINE void store(char* out, ptrdiff_t, Vec v, int n, int) {
    if constexpr (kPartial) {
      L::store_first(out, v, n);
    } else {
      L::store(out, v);
    }
  }
};

}  // namespace
}  // namespace octavo
