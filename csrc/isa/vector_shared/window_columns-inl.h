// The image rows under one output row, column by column.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"

namespace octavo {
namespace {

// K image rows, the call's from `first` on, from some column on, which may lie outside the image.
// Rows behind the call's last are padding.
template <int K>
class RowColumns {
 public:
  RowColumns(const WindowArgs& args, int first, int rows, int column)
      : padding_(args.padding), column_(column), columns_(args.columns) {
    for (int r = 0; r < K; ++r) {
      at_[r] = first + r < rows ? args.rows[first + r] : padding_;
      step_[r] = at_[r] == padding_ ? 0 : args.pixel_stride;
      at_[r] += column * step_[r];
    }
  }

  // The pixels of the next column.
  inline OCTAVO_INLINE void next(const uint8_t* (&at)[K]) {
    const bool inside = static_cast<unsigned>(column_) < static_cast<unsigned>(columns_);
    unroll<K>([&](auto r) OCTAVO_INLINE { at[r] = inside ? at_[r] : padding_; });
    skip();
  }
  inline OCTAVO_INLINE void skip() {
    unroll<K>([&](auto r) OCTAVO_INLINE { at_[r] += step_[r]; });
    ++column_;
  }

 private:
  const uint8_t* at_[K];
  ptrdiff_t step_[K];
  const uint8_t* padding_;
  int column_, columns_;
};

// Phases I and later of one round, up to the last pixel; false behind that. The exits lie apart, so
// that accumulators which are done do not live on.
template <int kFlight, int I, typename Step>
static inline OCTAVO_INLINE bool run_phases(int& left, const Step& step) {
  step(Index<0>(), Index<(kFlight - 1 + I) % kFlight>());
  if (--left == 0) return false;
  if constexpr (I + 1 < kFlight) return run_phases<kFlight, I + 1>(left, step);
  return true;
}

// Runs along a row with `kFlight` pixels under way: step(from, phase) passes the columns that
// complete the first of them, for pixels `from` and later, and then stores it if from is 0. Phases
// go round, where there are kFlight of them.
template <int kFlight, int kPhases, typename Step>
static inline OCTAVO_INLINE void run_along(int pixels, const Step& step) {
  static_assert(kPhases == 1 || kPhases == kFlight);
  unroll<kFlight - 1>([&](auto i) OCTAVO_INLINE {
    step(Index<kFlight - 1 - kIndex<decltype(i)>>(), Index<i % kPhases>());
  });
  if constexpr (kPhases == 1) {
    for (int p = 0; p < pixels; ++p) step(Index<0>(), Index<0>());
  } else if (pixels > 0) {
    while (run_phases<kFlight, 0>(pixels, step)) {
    }
  }
}

}  // namespace
}  // namespace octavo
