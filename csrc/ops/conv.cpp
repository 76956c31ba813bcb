#include "ops/conv.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "ops/conv_run.h"
#include "ops/line_conv.h"
#include "ops/window_conv.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

// Where channels come in odd numbers every tap would end in a padded k group. Then the taps of a
// kernel row make one tap (3 channels, 3x3: 9 bytes of 12), which can still be read in place; or,
// if that pads more than half as much again or there are groups, the whole window, always gathered.
WeightShape packed_shape(int32_t groups, int32_t n, int32_t k, const ConvGeometry& g, bool window) {
  if (k % 4 == 0 || window) return {groups, n, g.taps(), k};
  const int32_t rows = g.taps() / g.kernel[2], row_k = g.kernel[2] * k;
  const bool by_rows = groups == 1 && g.dilation[2] == 1 &&
                       rows * round_up(row_k, 4) * 2 <= 3 * round_up(g.taps() * k, 4);
  return by_rows ? WeightShape{1, n, rows, row_k} : WeightShape{groups, n, 1, g.taps() * k};
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

void dense_conv(const ConvWeight& weight, const WindowWalk& walk, const ImageView& x, QParams input,
                const OutputSpec& output, const Residual& residual, void* out) {
  const QuantizedWeight& w = weight.weight();
  const ptrdiff_t out_stride = w.channels() * static_cast<ptrdiff_t>(element_size(output.kind));
  GemmCall call = prepare_call(w, x.is_signed, input, output, walk.pixels(), out, out_stride);
  add_residual(call.epilogue, residual, output);
  if (walk.pixels() == 0) return;
  if (weight.groups() == 1 && takes_line_kernel(call, weight.geometry(), walk)) {
    line_conv(call, weight.geometry(), walk, x);
    return;
  }
  const ConvRun run(call, walk, x, weight.geometry(), weight.groups(),
                    call_scratch(ConvRun::shared_bytes(weight.geometry())));
  const int32_t panels = call.packed->panels();
  const int64_t cost = walk.pixels() * w.shape().elements();
  const int32_t panel_block = panels_per_task(*call.packed, run.blocks() * weight.groups(), cost);
  const int64_t panel_blocks = ceil_div(panels, panel_block);
  parallel_for(run.blocks() * weight.groups() * panel_blocks, cost, [&](int64_t task) {
    const int32_t p0 = static_cast<int32_t>(task % panel_blocks) * panel_block;
    const int32_t group = static_cast<int32_t>(task / panel_blocks % weight.groups());
    run(task / panel_blocks / weight.groups(), {group, p0, std::min(p0 + panel_block, panels)});
  });
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
  const ptrdiff_t out_stride =
      weight.weight().channels() * static_cast<ptrdiff_t>(element_size(output.kind));
  if (weight.weight().has_window_form()) {
    const ptrdiff_t pixel = out_stride, row = size[2] * pixel, plane = size[1] * row;
    window_conv(weight.weight(), g, walk, x, input, output, residual,
                {out, size[0] * plane, {plane, row, pixel}});
  } else if (walk.is_pointwise()) {
    const MatrixView rows{x.data, walk.pixels(), x.channels, x.stride[2], x.is_signed};
    gemm(weight.weight(), rows, input, output, residual, out, out_stride);
  } else {
    dense_conv(weight, walk, x, input, output, residual, out);
  }
}

}  // namespace octavo
