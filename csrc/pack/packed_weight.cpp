#include "pack/packed_weight.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "pack/panel_copy.h"
#include "parallel/parallel.h"

namespace octavo {
void check_weight_shape(const WeightShape& s) {
  if (s.groups < 1 || s.n < 1 || s.taps < 1 || s.k < 1) {
    throw std::invalid_argument("weight: every dimension must be at least 1, got groups=" +
                                std::to_string(s.groups) + " n=" + std::to_string(s.n) +
                                " taps=" + std::to_string(s.taps) + " k=" + std::to_string(s.k));
  }
  if (s.depth() > kMaxDepth) {
    throw std::invalid_argument(
        "weight: each output sums " + std::to_string(s.depth()) + " products, more than the " +
        std::to_string(kMaxDepth) +
        " that an int32 accumulator holds for every input. Split the layer along its inputs.");
  }
}

PackedWeight::PackedWeight(const WeightShape& shape, PackFormat format)
    : shape_(shape), format_(format), panels_(static_cast<int32_t>(ceil_div(shape.n, format.nr))) {
  int64_t columns = 0;
  for (int32_t p = 0; p < panels_; ++p) columns += panel_width(p);
  const int64_t used = columns * shape_.taps * padded_k();
  group_bytes_ = round_up(used, kAlignment);
  data_ = AlignedBuffer(group_bytes_ * shape_.groups + kReadAhead);
  // The panels are written by pack(); what lies between and behind them is not.
  for (int32_t g = 0; g < shape_.groups; ++g) {
    const bool last = g + 1 == shape_.groups;
    std::memset(data_.data() + g * group_bytes_ + used, 0,
                group_bytes_ - used + (last ? kReadAhead : 0));
  }
}

int32_t PackedWeight::panel_columns(int32_t panel) const {
  return std::min<int32_t>(format_.nr, shape_.n - panel * format_.nr);
}

int32_t PackedWeight::panel_width(int32_t panel) const {
  return static_cast<int32_t>(
      round_up(panel_columns(panel), panel + 1 < panels_ ? format_.nr : format_.nr_tail));
}

const int8_t* PackedWeight::panel(int32_t group, int32_t panel) const {
  const int64_t full_panel = int64_t{format_.nr} * shape_.taps * padded_k();
  return data_.as<int8_t>() + group * group_bytes_ + panel * full_panel;
}

template <typename Visit>
void PackedWeight::for_each_panel(Visit visit) const {
  parallel_for(int64_t{shape_.groups} * panels_, shape_.elements(), [&](int64_t task) {
    const auto g = static_cast<int32_t>(task / panels_), p = static_cast<int32_t>(task % panels_);
    const int64_t column = int64_t{g} * shape_.n + int64_t{p} * format_.nr;
    const PanelTap tap{panel_columns(p), panel_width(p), shape_.k, format_.kr, shape_.depth()};
    const int64_t tap_bytes = panel_stride(p) * (padded_k() / format_.kr);
    for (int32_t t = 0; t < shape_.taps; ++t) {
      visit(tap, panel(g, p) - data_.as<int8_t>() + t * tap_bytes,
            column * shape_.depth() + int64_t{t} * shape_.k, column);
    }
  });
}

std::shared_ptr<const PackedWeight> PackedWeight::pack(const int8_t* weights,
                                                       const WeightShape& shape, PackFormat format,
                                                       int32_t* column_sums) {
  check_weight_shape(shape);
  std::shared_ptr<PackedWeight> packed(new PackedWeight(shape, format));
  int8_t* data = packed->data_.as<int8_t>();
  if (column_sums) std::fill_n(column_sums, int64_t{shape.groups} * shape.n, 0);
  packed->for_each_panel([&](const PanelTap& tap, int64_t to, int64_t from, int64_t column) {
    pack_tap(tap, weights + from, data + to, column_sums ? column_sums + column : nullptr);
  });
  return packed;
}

std::shared_ptr<const PackedWeight> PackedWeight::pack(const WeightShape& shape, PackFormat format,
                                                       const Fill& fill) {
  check_weight_shape(shape);
  if (shape.taps != 1) throw std::logic_error("pack: a fill function writes one tap");
  std::shared_ptr<PackedWeight> packed(new PackedWeight(shape, format));
  int8_t* data = packed->data_.as<int8_t>();
  packed->for_each_panel([&](const PanelTap& tap, int64_t to, int64_t, int64_t column) {
    fill(tap, static_cast<int32_t>(column / shape.n), static_cast<int32_t>(column % shape.n),
         data + to);
  });
  return packed;
}

void PackedWeight::unpack(int8_t* weights) const {
  const int8_t* data = data_.as<int8_t>();
  for_each_panel([&](const PanelTap& tap, int64_t from, int64_t to, int64_t) {
    unpack_tap(tap, data + from, weights + to);
  });
}

}  // namespace octavo
