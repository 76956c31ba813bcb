#include "ops/conv.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "ops/image_walk.h"
#include "ops/row_runs.h"
#include "ops/window_conv.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

// Gathered rows that a task keeps in the L2 cache while the panels pass by.
constexpr int64_t kGatherBytes = 256 * 1024;
// However deep the layer, a task gathers no more than this.
constexpr int64_t kGatherLimit = 768 * 1024;

// Where channels come in odd numbers every tap would end in a padded k group; then the whole window
// is one tap, and its rows are always gathered.
WeightShape packed_shape(int32_t groups, int32_t n, int32_t k, const ConvGeometry& g, bool window) {
  if (k % 4 != 0 && !window) return {groups, n, 1, g.taps() * k};
  return {groups, n, g.taps(), k};
}

void check_geometry(const ConvGeometry& g) {
  const auto check = [](const char* name, const Spatial& values, int32_t least) {
    for (const int32_t v : values) {
      if (v < least) {
        throw std::invalid_argument(std::string(name) + ": must be at least " +
                                    std::to_string(least) + ", got " + std::to_string(v));
      }
    }
  };
  check("kernel_size", g.kernel, 1);
  check("stride", g.stride, 1);
  check("dilation", g.dilation, 1);
  check("padding", g.padding, 0);
  check("padding", g.padding_end, 0);
}

// One call of conv(): what its tasks share.
class ConvRun {
 public:
  ConvRun(const GemmCall& call, const WindowWalk& walk, const ImageView& x,
          const ConvWeight& weight)
      : call_(call), walk_(walk), x_(x), weight_(weight), shape_(weight.weight().shape()) {
    const int32_t taps = weight.geometry().taps();
    tap_k_ = static_cast<int32_t>(shape_.depth() / taps);
    tap_offsets_ = reinterpret_cast<ptrdiff_t*>(call_scratch(2 * taps * sizeof(ptrdiff_t)));
    walk.tap_offsets(tap_offsets_);
    joins_rows_ = weight.groups() == 1 && walk.has_contiguous_rows();
    in_place_ = shape_.taps == taps && tap_k_ % call.kernel->k_step == 0;
    // A gathered row holds its taps one behind another: one long tap, unless the packed taps have
    // padding between them.
    const bool one_tap = shape_.taps == 1 || tap_k_ % call.packed->format().kr == 0;
    gathered_k_ = one_tap ? static_cast<int32_t>(shape_.depth()) : tap_k_;
    gathered_taps_ = tap_offsets_ + taps;
    gathered_tap_count_ = one_tap ? 1 : taps;
    for (int32_t t = 0; t < gathered_tap_count_; ++t)
      gathered_taps_[t] = ptrdiff_t{t} * gathered_k_;
    // Rows of a gathered block start on cache lines of their own.
    pitch_ = round_up(shape_.depth(), kAlignment);
    const int64_t mr = call.kernel->m_step;
    const int64_t prepared = prepared_bytes(call, 1);
    const int64_t fitting = kGatherBytes / std::max(pitch_, prepared) / mr * mr;
    block_rows_ = std::max<int64_t>(
        fitting, std::min<int64_t>(mr, std::max<int64_t>(1, kGatherLimit / (pitch_ + prepared))));
    block_rows_ = std::min<int64_t>(block_rows_, round_up(std::max<int64_t>(1, walk.pixels()), mr));
  }

  int64_t block_rows() const { return block_rows_; }
  int64_t blocks() const { return ceil_div(walk_.pixels(), block_rows_); }

  void operator()(int64_t block, int32_t group, int32_t panel_begin, int32_t panel_end) const {
    const int64_t begin = block * block_rows_, end = std::min(begin + block_rows_, walk_.pixels());
    const int64_t gather_bytes = block_rows_ * pitch_;
    uint8_t* scratch = thread_scratch(gather_bytes + run_scratch_bytes(call_, block_rows_));
    thread_local std::vector<RowRun> runs;
    runs.clear();
    collect_runs(begin, end, group, scratch, runs);
    const KernelScope scope(*call_.set);
    run_rows(call_, {group, panel_begin, panel_end}, runs.data(), static_cast<int32_t>(runs.size()),
             nullptr, scratch + gather_bytes);
  }

 private:
  // Cuts [begin, end) into tiles of the kernel's rows. A tile whose windows lie inside one image
  // row is read in place; any other is gathered, the zero point standing where windows leave the
  // image. Neighbours of a kind join.
  void collect_runs(int64_t begin, int64_t end, int32_t group, uint8_t* gathered,
                    std::vector<RowRun>& runs) const {
    const int64_t group_offset = int64_t{group} * tap_k_;
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
          runs.push_back({a, weight_.geometry().stride[2] * x_.stride[2], tap_offsets_,
                          weight_.geometry().taps(), tap_k_, 0, row});
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

  bool reads_in_place(int64_t row, int32_t rows) const {
    const OutputPixel first = walk_.pixel(row), last = walk_.pixel(row + rows - 1);
    const bool one_row =
        first.batch == last.batch && first.at[0] == last.at[0] && first.at[1] == last.at[1];
    return one_row && walk_.inside(first) && walk_.inside(last);
  }

  void gather(const OutputPixel& pixel, int64_t group_offset, uint8_t* to) const {
    if (joins_rows_ && walk_.inside(2, pixel.at[2])) {
      const int32_t bytes = weight_.geometry().kernel[2] * tap_k_;
      walk_.for_each_row(pixel, [&](int t, const uint8_t* from) {
        copy_or_pad(from, bytes, to + int64_t{t} * tap_k_);
      });
    } else {
      walk_.for_each_input(pixel, [&](int t, const uint8_t* from) {
        copy_or_pad(from ? from + group_offset : nullptr, tap_k_, to + int64_t{t} * tap_k_);
      });
    }
  }

  void copy_or_pad(const uint8_t* from, int32_t bytes, uint8_t* to) const {
    if (from) {
      std::memcpy(to, from, bytes);
    } else {
      std::memset(to, call_.input_zero, bytes);
    }
  }

  const GemmCall& call_;
  const WindowWalk& walk_;
  const ImageView& x_;
  const ConvWeight& weight_;
  const WeightShape& shape_;
  int32_t tap_k_;
  ptrdiff_t *tap_offsets_, *gathered_taps_;  // call_scratch(), shared by the tasks
  int32_t gathered_tap_count_, gathered_k_;
  bool in_place_, joins_rows_;
  int64_t pitch_, block_rows_;
};

void dense_conv(const ConvWeight& weight, const WindowWalk& walk, const ImageView& x, QParams input,
                const OutputSpec& output, const Residual& residual, void* out) {
  const QuantizedWeight& w = weight.weight();
  const ptrdiff_t out_stride = w.channels() * static_cast<ptrdiff_t>(element_size(output.kind));
  GemmCall call = prepare_call(w, x.is_signed, input, output, walk.pixels(), out, out_stride);
  add_residual(call.epilogue, residual, output);
  if (walk.pixels() == 0) return;
  const ConvRun run(call, walk, x, weight);
  const int32_t panels = call.packed->panels();
  const int64_t cost = walk.pixels() * w.shape().elements();
  const int32_t panel_block = panels_per_task(*call.packed, run.blocks() * weight.groups(), cost);
  const int64_t panel_blocks = ceil_div(panels, panel_block);
  parallel_for(run.blocks() * weight.groups() * panel_blocks, cost, [&](int64_t task) {
    const int32_t p0 = static_cast<int32_t>(task % panel_blocks) * panel_block;
    const int32_t group = static_cast<int32_t>(task / panel_blocks % weight.groups());
    run(task / panel_blocks / weight.groups(), group, p0, std::min(p0 + panel_block, panels));
  });
}

// A 1x1 convolution over evenly spaced pixels is a matrix product of the image as it lies.
bool is_pointwise(const ConvGeometry& g, const ImageView& x) {
  for (int d = 0; d < 3; ++d) {
    if (g.kernel[d] != 1 || g.stride[d] != 1 || g.padding[d] != 0 || g.padding_end[d] != 0)
      return false;
  }
  const ptrdiff_t pitch = x.stride[2];
  const bool rows = x.size[1] <= 1 || x.stride[1] == x.size[2] * pitch;
  const bool planes = x.size[0] <= 1 || x.stride[0] == x.size[1] * x.size[2] * pitch;
  const bool images = x.batch <= 1 || x.batch_stride == x.size[0] * x.size[1] * x.size[2] * pitch;
  return rows && planes && images;
}

}  // namespace

int64_t ConvGeometry::output_size(int dim, int64_t input) const {
  const int64_t span = int64_t{dilation[dim]} * (kernel[dim] - 1) + 1;
  const int64_t padded = input + padding[dim] + padding_end[dim];
  return padded < span ? 0 : (padded - span) / stride[dim] + 1;
}

ConvWeight::ConvWeight(const int8_t* weights, int32_t groups, int32_t n, int32_t k,
                       const ConvGeometry& geometry, WeightParams params)
    : groups_(groups), k_(k), geometry_(geometry) {
  check_geometry(geometry_);
  const bool window = takes_window_kernels(groups, n, k, params);
  weight_ = std::make_unique<QuantizedWeight>(
      weights, packed_shape(groups, n, k, geometry_, window), std::move(params), window);
}

void conv(const ConvWeight& weight, const ImageView& x, QParams input, const OutputSpec& output,
          const Residual& residual, void* out) {
  const ConvGeometry& g = weight.geometry();
  if (x.channels != weight.in_channels()) {
    throw std::invalid_argument("input: expected " + std::to_string(weight.in_channels()) +
                                " channels, got " + std::to_string(x.channels));
  }
  std::array<int64_t, 3> size;
  for (int d = 0; d < 3; ++d) size[d] = g.output_size(d, x.size[d]);
  const WindowWalk walk(x, g, size);
  if (walk.pixels() > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument("input: more than 2^31 - 1 output pixels in one call");
  }
  if (weight.weight().has_window_form()) {
    window_conv(weight, walk, x, input, output, residual, out);
  } else if (is_pointwise(g, x)) {
    const MatrixView rows{x.data, walk.pixels(), x.channels, x.stride[2], x.is_signed};
    const ptrdiff_t out_stride =
        weight.weight().channels() * static_cast<ptrdiff_t>(element_size(output.kind));
    gemm(weight.weight(), rows, input, output, residual, out, out_stride);
  } else {
    dense_conv(weight, walk, x, input, output, residual, out);
  }
}

}  // namespace octavo
