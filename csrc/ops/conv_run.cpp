#include "ops/conv_run.h"

#include <algorithm>
#include <cstring>

namespace octavo {
namespace {

// Gathered rows that a task keeps in the L2 cache while the panels pass by.
constexpr int64_t kGatherBytes = 256 * 1024;
// However deep the layer, a task gathers no more than this.
constexpr int64_t kGatherLimit = 768 * 1024;

}  // namespace

ConvRun::ConvRun(const GemmCall& call, const WindowWalk& walk, const ImageView& x,
                 const ConvGeometry& geometry, int32_t groups, uint8_t* shared,
                 const ScatteredOutput* scattered)
    : call_(call), walk_(walk), x_(x), geometry_(geometry), scattered_(scattered) {
  const WeightShape& shape = call.weight->shape();
  const int32_t taps = geometry.taps();
  tap_k_ = static_cast<int32_t>(shape.depth() / taps);
  tap_offsets_ = reinterpret_cast<ptrdiff_t*>(shared);
  walk.tap_offsets(tap_offsets_);
  joins_rows_ = groups == 1 && walk.has_contiguous_rows();
  pointwise_ = walk.is_pointwise();
  in_place_ = shape.taps == taps && tap_k_ % call.kernel->k_step == 0;
  // A gathered row holds its taps one behind another: one long tap, unless the packed taps have
  // padding between them.
  const bool one_tap = shape.taps == 1 || tap_k_ % call.packed->format().kr == 0;
  gathered_k_ = one_tap ? static_cast<int32_t>(shape.depth()) : tap_k_;
  gathered_taps_ = tap_offsets_ + taps;
  gathered_tap_count_ = one_tap ? 1 : taps;
  for (int32_t t = 0; t < gathered_tap_count_; ++t) gathered_taps_[t] = ptrdiff_t{t} * gathered_k_;
  // Rows of a gathered block start on cache lines of their own.
  pitch_ = round_up(shape.depth(), kAlignment);
  const int64_t mr = call.kernel->m_step;
  const int64_t prepared = prepared_bytes(call, 1);
  const int64_t fitting = kGatherBytes / std::max(pitch_, prepared) / mr * mr;
  block_rows_ = std::max<int64_t>(
      fitting, std::min<int64_t>(mr, std::max<int64_t>(1, kGatherLimit / (pitch_ + prepared))));
  block_rows_ = std::min<int64_t>(block_rows_, round_up(std::max<int64_t>(1, walk.pixels()), mr));
}

void ConvRun::operator()(int64_t block, const PanelRange& panels) const {
  const int64_t begin = block * block_rows_, end = std::min(begin + block_rows_, walk_.pixels());
  const int64_t gather_bytes = pointwise_ ? 0 : block_rows_ * pitch_;
  const int64_t place_bytes =
      scattered_ ? round_up(block_rows_ * sizeof(ScatteredRows::Row), kAlignment) : 0;
  const int64_t tile = scattered_ ? tile_bytes(call_) : 0;
  const size_t run_bytes = run_scratch_bytes(call_, block_rows_);
  uint8_t* gathered = thread_scratch(gather_bytes + place_bytes + tile + run_bytes);
  uint8_t* rest = gathered + gather_bytes;
  thread_local std::vector<RowRun> runs;
  runs.clear();
  const int32_t group = scattered_ ? panels.group / scattered_->groups : panels.group;
  collect_runs(begin, end, group, gathered, runs);
  const KernelScope scope(*call_.set);
  const int32_t count = static_cast<int32_t>(runs.size());
  if (!scattered_) {
    run_rows(call_, panels, runs.data(), count, nullptr, rest);
    return;
  }
  auto* places = reinterpret_cast<ScatteredRows::Row*>(rest);
  place_rows(begin, end, places);
  rest += place_bytes;
  const ScatteredRows scatter{places, scattered_->group_offset, rest};
  run_rows(call_, panels, runs.data(), count, nullptr, rest + tile, &scatter);
}

// Pixels of a row of the image are evenly spaced; what follows may lie anywhere.
void ConvRun::place_rows(int64_t begin, int64_t end, ScatteredRows::Row* rows) const {
  for (int64_t row = begin; row < end;) {
    const OutputPixel p = walk_.pixel(row);
    ptrdiff_t offset = p.batch * scattered_->batch_stride;
    for (int d = 0; d < 3; ++d) offset += p.at[d] * scattered_->stride[d];
    const int64_t line = std::min(end - row, walk_.size(2) - p.at[2]);
    for (int64_t i = 0; i < line; ++i) *rows++ = {offset + i * scattered_->stride[2], line - i};
    row += line;
  }
}

// Cuts [begin, end) into tiles of the kernel's rows, unless they lie as a matrix. A tile whose
// windows lie inside one image row is read in place; any other is gathered, the zero point standing
// where windows leave the image. Neighbours of a kind join.
void ConvRun::collect_runs(int64_t begin, int64_t end, int32_t group, uint8_t* gathered,
                           std::vector<RowRun>& runs) const {
  const int64_t group_offset = int64_t{group} * tap_k_;
  if (pointwise_) {
    const uint8_t* a = walk_.origin(walk_.pixel(begin)) + group_offset;
    runs.push_back(
        {a, x_.stride[2], tap_offsets_, 1, tap_k_, static_cast<int32_t>(end - begin), begin});
    return;
  }
  bool last_in_place = false;
  for (int64_t row = begin; row < end; row += call_.kernel->m_step) {
    const int32_t rows = static_cast<int32_t>(std::min<int64_t>(call_.kernel->m_step, end - row));
    const bool in_place = in_place_ && reads_in_place(row, rows);
    if (in_place) {
      const OutputPixel p = walk_.pixel(row);
      const uint8_t* a = walk_.origin(p) + group_offset;
      const bool joins =
          last_in_place && a == runs.back().a + runs.back().rows * runs.back().a_stride;
      if (!joins) {
        runs.push_back({a, geometry_.stride[2] * x_.stride[2], tap_offsets_, geometry_.taps(),
                        tap_k_, 0, row});
      }
    } else {
      uint8_t* block = gathered + (row - begin) * pitch_;
      for (int32_t r = 0; r < rows; ++r)
        gather(walk_.pixel(row + r), group_offset, block + r * pitch_);
      if (last_in_place || runs.empty()) {
        runs.push_back({block, pitch_, gathered_taps_, gathered_tap_count_, gathered_k_, 0, row});
      }
    }
    runs.back().rows += rows;
    last_in_place = in_place;
  }
}

bool ConvRun::reads_in_place(int64_t row, int32_t rows) const {
  const OutputPixel first = walk_.pixel(row), last = walk_.pixel(row + rows - 1);
  const bool one_row =
      first.batch == last.batch && first.at[0] == last.at[0] && first.at[1] == last.at[1];
  return one_row && walk_.inside(first) && walk_.inside(last);
}

void ConvRun::gather(const OutputPixel& pixel, int64_t group_offset, uint8_t* to) const {
  if (joins_rows_ && walk_.inside(2, pixel.at[2])) {
    const int32_t bytes = geometry_.kernel[2] * tap_k_;
    walk_.for_each_row(pixel, [&](int t, const uint8_t* from) {
      copy_or_pad(from, bytes, to + int64_t{t} * tap_k_);
    });
  } else {
    walk_.for_each_input(pixel, [&](int t, const uint8_t* from) {
      copy_or_pad(from ? from + group_offset : nullptr, tap_k_, to + int64_t{t} * tap_k_);
    });
  }
}

void ConvRun::copy_or_pad(const uint8_t* from, int32_t bytes, uint8_t* to) const {
  if (from) {
    std::memcpy(to, from, bytes);
  } else {
    std::memset(to, call_.input_zero, bytes);
  }
}

}  // namespace octavo
