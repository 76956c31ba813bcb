// Weights in the layout that kernels read.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "abi/kernel_abi.h"
#include "pack/panel_copy.h"
#include "util/aligned_buffer.h"

namespace octavo {

// Plain weights are int8 [groups][n][taps][k], n and k per group.
struct WeightShape {
  int32_t groups = 1;
  int32_t n = 0;
  int32_t taps = 1;
  int32_t k = 0;

  int64_t depth() const { return int64_t{taps} * k; }
  int64_t elements() const { return int64_t{groups} * n * depth(); }
};

// The largest depth (taps * k) whose sums of u8 * s8 products, offset zero points included, stay
// inside int32 whatever the data: 255 * 128 * depth < 2^31.
constexpr int64_t kMaxDepth = ((int64_t{1} << 31) - 1) / (255 * 128);

// Immutable after pack(), so threads share it freely. Never serialized: unpack() gives the plain
// weights back.
//
// Group by group, panel by panel: panel p holds columns [p * nr, p * nr + width), where width is
// nr, or for the last panel what is left rounded up to nr_tail; inside it [tap][ceil(k /
// kr)][width][kr]. Columns past n and bytes past k are zero. kReadAhead bytes of zeros follow the
// last panel, so that an AMX tile load of 16 k groups may start at any valid group.
class PackedWeight {
 public:
  static constexpr int64_t kReadAhead = 16 * 64 * 4;

  // Also writes the sum of each of the groups * n columns to `column_sums`, unless it is null.
  // Throws std::invalid_argument for an empty shape or a depth above kMaxDepth.
  static std::shared_ptr<const PackedWeight> pack(const int8_t* weights, const WeightShape& shape,
                                                  PackFormat format,
                                                  int32_t* column_sums = nullptr);
  // The same for weights that lie otherwise: fill(tap, group, column, packed) writes the one tap of
  // a panel, whose first column is the group's `column`, all of it, zeros included (PanelTap::pitch
  // means nothing). Called by the pool's threads; it must not throw. For shapes of one tap.
  using Fill = std::function<void(const PanelTap&, int32_t, int32_t, int8_t*)>;
  static std::shared_ptr<const PackedWeight> pack(const WeightShape& shape, PackFormat format,
                                                  const Fill& fill);
  void unpack(int8_t* weights) const;

  const WeightShape& shape() const { return shape_; }
  const PackFormat& format() const { return format_; }
  int32_t panels() const { return panels_; }   // per group
  int32_t panel_columns(int32_t panel) const;  // valid columns
  int32_t panel_width(int32_t panel) const;    // valid columns and zero padding
  // Bytes between k groups of a panel (GemmArgs::b_stride).
  ptrdiff_t panel_stride(int32_t panel) const { return ptrdiff_t{panel_width(panel)} * format_.kr; }
  const int8_t* panel(int32_t group, int32_t panel) const;
  // k of one tap, rounded up to kr. A caller that lays a row of A out as [taps][padded_k] may pass
  // it as one tap.
  int32_t padded_k() const { return static_cast<int32_t>(round_up(shape_.k, format_.kr)); }
  int64_t bytes() const { return static_cast<int64_t>(data_.size()); }

 private:
  PackedWeight(const WeightShape& shape, PackFormat format);
  // Calls visit(shape, packed byte index, plain element index, first column) for each tap of each
  // panel; the panels run on the pool's threads.
  template <typename Visit>
  void for_each_panel(Visit visit) const;

  WeightShape shape_;
  PackFormat format_;
  int32_t panels_;
  int64_t group_bytes_;
  AlignedBuffer data_;
};

// Throws std::invalid_argument for an empty shape or a depth above kMaxDepth.
void check_weight_shape(const WeightShape& shape);

}  // namespace octavo
