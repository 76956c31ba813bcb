// Recurrent cells with NEON: the vectors that cell-inl.h computes on.
#pragma once

#include "isa/arm_shared/floats_wide_neon-inl.h"
#include "isa/vector_shared/cell-inl.h"

namespace octavo {
namespace {

// For values between bounds that are not 0: there FMIN and FMAX, which give NaN for NaN, do what a
// comparison and a selection do.
//
// Registers: 2 for each of 5 to 7 values, and those of the 25 constants for which there is room.
struct BoundedFloats : FloatsWide<2> {
  static inline OCTAVO_INLINE Vec min(const Vec& a, const Vec& b) {
    return each([&](auto i) OCTAVO_INLINE { return vminq_f32(a.part[i], b.part[i]); });
  }
  static inline OCTAVO_INLINE Vec max(const Vec& a, const Vec& b) {
    return each([&](auto i) OCTAVO_INLINE { return vmaxq_f32(a.part[i], b.part[i]); });
  }
};

constexpr void add_cells_neon(ElementwiseFns& fns) {
  fns.cell[static_cast<int>(CellKind::kLstm)] = lstm_cell<BoundedFloats>;
  fns.cell[static_cast<int>(CellKind::kGru)] = gru_cell<BoundedFloats>;
  fns.cell[static_cast<int>(CellKind::kRnnTanh)] = rnn_cell<BoundedFloats, false>;
  fns.cell[static_cast<int>(CellKind::kRnnRelu)] = rnn_cell<FloatsWide<2>, true>;
}

}  // namespace
}  // namespace octavo
