#include "ops/conv_run.h"

#include <algorithm>
#include <cstring>

#include "parallel/parallel.h"

namespace octavo {
namespace {

// Gathered rows that a task keeps in the L2 cache while the panels pass by.
constexpr int64_t kGatherBytes = 256 * 1024;
// However deep the layer, a task gathers no more than this. Kernels that prepare rows widen each
// panel once for a block, so they get all of it: 512 channels on 7x7 in one block, not three.
constexpr int64_t kGatherLimit = 768 * 1024;

// Pieces of up to this many bytes are copied 16 bytes at a time, past their ends.
constexpr int32_t kWideCopy = 64;
constexpr int32_t kChunk = 16;

}  // namespace

ConvRun::ConvRun(const GemmCall& call, const WindowWalk& walk, const ImageView& x,
                 const ConvGeometry& geometry, int32_t groups, uint8_t* shared,
                 const ScatteredOutput* scattered)
    : call_(call), walk_(walk), x_(x), geometry_(geometry), scattered_(scattered) {
  const WeightShape& shape = call.weight->shape();
  tap_k_ = static_cast<int32_t>(shape.depth() / geometry.taps());
  window_taps_ = geometry.taps() / shape.taps;
  packed_k_ = shape.k;
  packed_tap_ = call.packed->padded_k();
  joins_rows_ = groups == 1 && walk.has_contiguous_rows();
  pointwise_ = walk.is_pointwise();
  image_end_ = walk.image_end();
  auto* offsets = reinterpret_cast<ptrdiff_t*>(shared);
  plan_reading_in_place(groups, offsets);
  plan_gathering(offsets + geometry.taps());
  plan_skipping();
}

// Kernel rows that lie together are one tap each. Where its bytes do not fill the kernel's k step,
// as with 3 channels, a tap is read on into the pixels behind it, whose weights are 0; not past the
// image's end, and not where rows are summed for weights with zero points.
void ConvRun::plan_reading_in_place(int32_t groups, ptrdiff_t* shared) {
  const int32_t taps = geometry_.taps(), columns = geometry_.kernel[2];
  walk_.tap_offsets(shared);
  in_place_tap_ = shared;
  const bool by_rows = window_taps_ == columns && packed_k_ == columns * tap_k_;
  if (joins_rows_ && (by_rows || (window_taps_ == 1 && packed_tap_ == tap_k_))) {
    in_place_taps_ = taps / columns;
    in_place_k_ = columns * tap_k_;
    for (int32_t t = 0; t < in_place_taps_; ++t) shared[t] = shared[t * columns];
  } else {
    in_place_taps_ = taps;
    in_place_k_ = window_taps_ == 1 ? tap_k_ : 0;
  }
  const int32_t step = call_.kernel->k_step;
  if (in_place_k_ % step != 0) {
    const bool reads_on = in_place_k_ == packed_k_ && packed_tap_ % step == 0 && groups == 1 &&
                          !call_.weight->has_weight_zero_points();
    in_place_k_ = reads_on ? packed_tap_ : 0;
  }
  in_place_ = in_place_k_ > 0;
  inside_ = walk_.inside_range(2);
  // Kernels that prepare rows take them one by one. Others lose a tile at each border of a line,
  // which wide images can bear.
  cuts_at_borders_ = in_place_ && (call_.kernel->prepare[call_.a_signed] ||
                                   inside_[1] - inside_[0] >= 8 * call_.kernel->m_step);
}

void ConvRun::plan_gathering(ptrdiff_t* shared) {
  for (int32_t t = 0; t < geometry_.taps(); ++t)
    shared[t] = int64_t{t / window_taps_} * packed_tap_ + int64_t{t % window_taps_} * tap_k_;
  place_ = shared;
  gathers_rows_ =
      joins_rows_ && (window_taps_ % geometry_.kernel[2] == 0 || packed_tap_ == packed_k_);
  const int32_t depth = call_.weight->shape().taps * packed_tap_;
  copies_wide_ = (joins_rows_ ? geometry_.kernel[2] : 1) * tap_k_ <= kWideCopy;
  // Rows start on cache lines of their own.
  pitch_ = round_up(depth + (copies_wide_ ? kChunk : 0), kAlignment);
  const int64_t mr = call_.kernel->m_step;
  const int64_t prepared = prepared_bytes(call_, 1);
  const int64_t limit = kGatherLimit / (pitch_ + prepared);
  const int64_t fitting = (prepared ? limit : kGatherBytes / pitch_) / mr * mr;
  block_rows_ = std::max<int64_t>(fitting, std::min<int64_t>(mr, std::max<int64_t>(1, limit)));
  // Equal blocks, so that the last one is not a sliver, and as many for each thread.
  const int64_t pixels = std::max<int64_t>(1, walk_.pixels());
  const int64_t cost = pixels * call_.weight->shape().elements();
  int64_t blocks = ceil_div(pixels, block_rows_);
  const int64_t for_threads = cost > kSerialGrain ? round_up(blocks, max_threads()) : blocks;
  if (pixels >= 2 * mr * for_threads && (blocks > 1 || call_.packed->panels() == 1))
    blocks = for_threads;
  block_rows_ = std::min(block_rows_, round_up(ceil_div(pixels, blocks), mr));
}

// Kernels that prepare rows need all of them alike. Cutting lines that are shorter than half a tile
// costs more than it saves.
void ConvRun::plan_skipping() {
  const int32_t zero = call_.input_zero + call_.kernel->a_offset[call_.a_signed];
  const int32_t columns = geometry_.kernel[2];
  inside_lines_ = walk_.inside_range(1);
  skips_rows_ = zero == 0 && geometry_.kernel[0] == 1 && prepared_bytes(call_, 1) == 0 &&
                (window_taps_ == 1 || window_taps_ == columns) &&
                2 * walk_.size(2) >= call_.kernel->m_step &&
                inside_lines_[1] - inside_lines_[0] < walk_.size(1);
  row_groups_ = columns / window_taps_ * packed_tap_ / call_.packed->format().kr;
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

// Cuts [begin, end) into runs, unless they lie as a matrix. Rows whose windows lie inside one image
// row are read in place; any other is gathered, the zero point standing where windows leave the
// image. The cuts are where a line reaches the border, or, where that would leave too many tiles
// half empty, every m_step rows. Neighbours of a kind join.
void ConvRun::collect_runs(int64_t begin, int64_t end, int32_t group, uint8_t* gathered,
                           std::vector<RowRun>& runs) const {
  const int64_t group_offset = int64_t{group} * tap_k_;
  if (pointwise_) {
    const uint8_t* a = walk_.origin(walk_.pixel(begin)) + group_offset;
    runs.push_back(
        {a, x_.stride[2], in_place_tap_, 1, tap_k_, static_cast<int32_t>(end - begin), begin});
    return;
  }
  const ptrdiff_t a_stride = geometry_.stride[2] * x_.stride[2];
  const int32_t depth = call_.weight->shape().taps * packed_tap_;
  OutputPixel pixel = walk_.pixel(begin);
  bool last_in_place = false;
  int32_t last_kept = 0;
  for (int64_t row = begin; row < end;) {
    const auto [rows, in_place] = next_rows(pixel, end - row);
    const auto [first, last] = kernel_rows(pixel);
    const int32_t kept = last - first, skipped = first * row_groups_;
    const bool alike = !runs.empty() && last_in_place == in_place && kept == last_kept &&
                       runs.back().skipped_groups == skipped;
    if (in_place) {
      const uint8_t* a = walk_.origin(pixel) + group_offset;
      const bool joins = alike && a == runs.back().a + runs.back().rows * runs.back().a_stride;
      const int32_t taps = in_place_taps_ / geometry_.kernel[1];
      if (!joins) {
        runs.push_back(
            {a, a_stride, in_place_tap_ + first * taps, kept * taps, in_place_k_, 0, row, skipped});
      }
      walk_.advance(pixel, rows);
    } else {
      uint8_t* block = gathered + (row - begin) * pitch_;
      for (int32_t r = 0; r < rows; ++r, walk_.advance(pixel, 1))
        gather(pixel, group_offset, block + r * pitch_);
      if (!alike) {
        const int32_t kr = call_.packed->format().kr;
        const int32_t k = kept < geometry_.kernel[1] ? kept * row_groups_ * kr : depth;
        runs.push_back(
            {block + int64_t{skipped} * kr, pitch_, &gathered_tap_, 1, k, 0, row, skipped});
      }
    }
    last_kept = kept;
    runs.back().rows += rows;
    last_in_place = in_place;
    row += rows;
  }
}

// The rows of the kernel that a pixel takes.
WindowWalk::Rows ConvRun::kernel_rows(const OutputPixel& pixel) const {
  const WindowWalk::Rows all{0, geometry_.kernel[1]};
  if (!skips_rows_) return all;
  const WindowWalk::Rows rows = walk_.rows_inside(pixel);
  return rows.first < rows.last ? rows : all;
}

// How many pixels from this one on take the same rows of the kernel, in this image.
int64_t ConvRun::rows_alike(const OutputPixel& pixel) const {
  const int64_t y = pixel.at[1];
  const bool inside = y >= inside_lines_[0] && y < inside_lines_[1];
  return ((inside ? inside_lines_[1] : y + 1) - y) * walk_.size(2) - pixel.at[2];
}

// The next rows that are of one kind, up to `left`.
ConvRun::Rows ConvRun::next_rows(const OutputPixel& pixel, int64_t left) const {
  if (skips_rows_) left = std::min(left, rows_alike(pixel));
  if (!cuts_at_borders_) {
    const auto rows = static_cast<int32_t>(std::min<int64_t>(call_.kernel->m_step, left));
    return {rows, reads_in_place(pixel, rows)};
  }
  const int64_t at = pixel.at[2], line = std::min(left, walk_.size(2) - at);
  const bool crosses = at < inside_[1] && meets_lines(pixel);
  if (!crosses) return {static_cast<int32_t>(line), false};
  const int64_t until = at < inside_[0] ? inside_[0] : inside_[1];
  const auto rows = static_cast<int32_t>(std::min(line, until - at));
  return {rows, reads_in_place(pixel, rows)};
}

// Whether each kernel row that a pixel takes lies in a line of the image.
bool ConvRun::meets_lines(const OutputPixel& pixel) const {
  if (!walk_.inside(0, pixel.at[0])) return false;
  if (walk_.inside(1, pixel.at[1])) return true;
  const WindowWalk::Rows rows = walk_.rows_inside(pixel);
  return skips_rows_ && rows.first < rows.last;
}

bool ConvRun::reads_in_place(const OutputPixel& first, int32_t rows) const {
  if (!in_place_ || first.at[2] < inside_[0] || first.at[2] + rows > inside_[1]) return false;
  if (!meets_lines(first)) return false;
  const ptrdiff_t last_row = (rows - 1) * geometry_.stride[2] * x_.stride[2];
  return in_place_k_ <= packed_k_ ||
         walk_.origin(first) + last_row + in_place_tap_[in_place_taps_ - 1] + in_place_k_ <=
             image_end_;
}

void ConvRun::gather(const OutputPixel& pixel, int64_t group_offset, uint8_t* to) const {
  if (gathers_rows_) {
    const auto [first, last] = walk_.columns_inside(pixel);
    const int32_t before = first * tap_k_, bytes = (last - first) * tap_k_;
    const int32_t after = (geometry_.kernel[2] - last) * tap_k_;
    walk_.for_each_row(pixel, first, [&](int t, const uint8_t* from) {
      uint8_t* row = to + place_[t];
      if (before > 0) std::memset(row, call_.input_zero, before);
      if (bytes > 0) copy_or_pad(from, bytes, row + before);
      if (after > 0) std::memset(row + before + bytes, call_.input_zero, after);
    });
  } else {
    walk_.for_each_input(pixel, [&](int t, const uint8_t* from) {
      copy_or_pad(from ? from + group_offset : nullptr, tap_k_, to + place_[t]);
    });
  }
  if (packed_tap_ == packed_k_) return;
  for (int32_t t = 0; t < call_.weight->shape().taps; ++t) {
    for (int32_t k = packed_k_; k < packed_tap_; ++k)
      to[int64_t{t} * packed_tap_ + k] = static_cast<uint8_t>(call_.input_zero);
  }
}

// May write kChunk - 1 bytes more, which belong to taps that follow or to the row's end.
void ConvRun::copy_or_pad(const uint8_t* from, int32_t bytes, uint8_t* to) const {
  if (!from) {
    std::memset(to, call_.input_zero, bytes);
  } else if (copies_wide_ && image_end_ - from >= round_up(bytes, kChunk)) {
    for (int32_t i = 0; i < bytes; i += kChunk) std::memcpy(to + i, from + i, kChunk);
  } else {
    std::memcpy(to, from, bytes);
  }
}

}  // namespace octavo
