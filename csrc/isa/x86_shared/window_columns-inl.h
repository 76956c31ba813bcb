// The image rows under one output row, column by column.
#pragma once

#include "abi/kernel_abi.h"
#include "abi/unroll.h"

namespace octavo {
namespace {

// K rows from some column on, which may lie outside the image.
template <int K>
class RowColumns {
 public:
  RowColumns(const WindowArgs& args, const uint8_t* const* rows, int column)
      : padding_(args.padding), column_(column), columns_(args.columns) {
    for (int r = 0; r < K; ++r) {
      step_[r] = rows[r] == args.padding ? 0 : args.pixel_stride;
      at_[r] = rows[r] + column * step_[r];
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

}  // namespace
}  // namespace octavo
