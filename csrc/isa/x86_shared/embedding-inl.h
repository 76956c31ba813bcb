// Rows of embedding tables in vectors of both widths; L is TableFloats256 or TableFloats512.
#pragma once

#include "abi/unroll.h"
#include "isa/shared/embedding-inl.h"

namespace octavo {
namespace {

// Register budget: kRows scales (max: and offsets), one sum, one row's values, and L's constants
// for nibbles: 8 + 2 + 2 of 16 for sums with 256 bits.
template <class L, bool kNibbles>
struct VectorRows {
  using Vec = typename L::Vec;

  template <int kRows, bool kMax>
  static __attribute__((noinline)) void accumulate(EmbeddingPiece piece, float group_offsets,
                                                   bool fresh, int64_t columns, float* out) {
    const uint8_t* row[kRows];
    Vec scale[kRows], offset[kRows];
    unroll<kRows>([&](auto r) OCTAVO_INLINE {
      row[r] = piece.row[r];
      scale[r] = L::set(piece.qparams[r][0]);
      offset[r] = L::set(piece.qparams[r][1]);
    });
    const Vec start = L::set(kMax ? -INFINITY : 0.0f), offsets = L::set(group_offsets);
    const auto reduce = [&](Vec x, const auto& load) OCTAVO_INLINE {
      unroll<kRows>([&](auto r) OCTAVO_INLINE {
        const Vec product = L::mul(load(row[r]), scale[r]);
        x = kMax ? L::max(x, L::add(product, offset[r])) : L::add(x, product);
      });
      return kMax ? x : L::add(x, offsets);
    };
    int64_t c = 0;
    for (; c + L::kCount <= columns; c += L::kCount) {
      const int64_t at = kNibbles ? c / 2 : c;
      const Vec x = fresh ? start : L::load(out + c, L::kCount);
      const Vec sum = reduce(x, [&](const uint8_t* p) OCTAVO_INLINE {
        return kNibbles ? L::nibbles(p + at) : L::bytes(p + at);
      });
      L::store(out + c, sum, L::kCount);
    }
    if (c < columns) {
      const int64_t at = kNibbles ? c / 2 : c;
      const int n = static_cast<int>(columns - c);
      const Vec x = fresh ? start : L::load(out + c, n);
      const Vec sum = reduce(x, [&](const uint8_t* p) OCTAVO_INLINE {
        return kNibbles ? L::nibbles_part(p + at, n) : L::bytes_part(p + at, n);
      });
      L::store(out + c, sum, n);
    }
  }
};

}  // namespace
}  // namespace octavo
