#include "ops/window_conv.h"

#include <algorithm>
#include <cstring>

#include "ops/row_runs.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

// Output rows that a task computes with one set of weights in registers.
constexpr int64_t kRowsPerTask = 16;
// Tasks for each thread, so that none waits long for the last.
constexpr int64_t kTasksPerThread = 4;
// Pointers to inputs that a task keeps.
constexpr int64_t kPointerBytes = 512 * 1024;

// Whether a kernel for one size of window computes this call.
bool admits(const WindowKernel& kernel, const ConvGeometry& g, const WindowArgs& args) {
  const bool plane = g.kernel[0] == 1 && g.kernel[1] == kernel.kernel &&
                     g.kernel[2] == kernel.kernel && g.stride[1] == kernel.stride &&
                     g.stride[2] == kernel.stride && g.dilation[1] == 1 && g.dilation[2] == 1;
  return plane && (kernel.kind == WindowKind::kDepthwise || args.in_channels >= kGroupedLanes);
}

const WindowKernel& select(const KernelSet& set, WindowKind kind, const ConvGeometry& g,
                           const WindowArgs& args) {
  const WindowKernel* kernel = set.window;
  // The last row of each kind takes any window.
  while (kernel->kind != kind || (kernel->kernel != 0 && !admits(*kernel, g, args))) ++kernel;
  return *kernel;
}

// One call of window_conv(): what its tasks share.
class WindowRun {
 public:
  WindowRun(const WindowKernel& kernel, const ConvGeometry& geometry, const WindowWalk& walk,
            const ImageView& x, const OutputPlaces& out, const WindowArgs& args)
      : kernel_(kernel), geometry_(geometry), walk_(walk), x_(x), out_(out), args_(args) {
    const int64_t height = walk.size(1), planes = walk.pixels() / (height * walk.size(2));
    const int64_t wanted = max_threads() > 1 ? kTasksPerThread * max_threads() : 1;
    rows_per_task_ =
        std::clamp<int64_t>(planes * height / wanted, 1, std::min(kRowsPerTask, height));
    tasks_per_plane_ = ceil_div(height, rows_per_task_);
    const int64_t row_tasks = planes * tasks_per_plane_;
    // Channels are cut only where rows are too few.
    const int64_t unit =
        kernel.kind == WindowKind::kDepthwise ? kWindowSplit : kWindowSplit / kGroupedLanes;
    const int64_t units = ceil_div(args.end, unit);
    const int64_t parts = std::clamp<int64_t>(wanted / row_tasks, 1, units);
    part_ = ceil_div(units, parts) * unit;
    parts_ = ceil_div(args.end, part_);
    tasks_ = row_tasks * parts_;
  }

  int64_t tasks() const { return tasks_; }

  void operator()(int64_t task) const {
    WindowArgs args = args_;
    args.begin = static_cast<int32_t>(task % parts_ * part_);
    args.end = static_cast<int32_t>(std::min<int64_t>(args.begin + part_, args_.end));
    const int64_t height = walk_.size(1), plane = task / parts_ / tasks_per_plane_;
    const int64_t first = task / parts_ % tasks_per_plane_ * rows_per_task_;
    const int64_t begin = plane * height + first;
    const int64_t end = plane * height + std::min(first + rows_per_task_, height);
    if (kernel_.kernel != 0) {
      run_rows(args, begin, end);
    } else {
      for (int64_t row = begin; row < end; ++row) run_any(args, row);
    }
  }

 private:
  // Image row under kernel row (i, j) at column 0, or nullptr outside the image.
  const uint8_t* image_row(const OutputPixel& p, int32_t i, int32_t j) const {
    const int64_t d = walk_.start(0, p.at[0]) + int64_t{i} * geometry_.dilation[0];
    const int64_t h = walk_.start(1, p.at[1]) + int64_t{j} * geometry_.dilation[1];
    if (d < 0 || d >= x_.size[0] || h < 0 || h >= x_.size[1]) return nullptr;
    return static_cast<const uint8_t*>(x_.data) + p.batch * x_.batch_stride + d * x_.stride[0] +
           h * x_.stride[1];
  }

  void place_output(WindowArgs& args, int64_t pixel) const {
    const OutputPixel p = walk_.pixel(pixel);
    ptrdiff_t offset = p.batch * out_.batch_stride;
    for (int d = 0; d < 3; ++d) offset += p.at[d] * out_.stride[d];
    args.out = static_cast<char*>(out_.data) + offset;
    args.m0 = static_cast<int32_t>(pixel);
  }

  // Output rows [begin, end) of one plane.
  void run_rows(WindowArgs& args, int64_t begin, int64_t end) const {
    const int64_t width = walk_.size(2);
    const int32_t stride = geometry_.stride[1];
    const int64_t count = (end - begin - 1) * stride + geometry_.kernel[1];
    auto** rows = reinterpret_cast<const uint8_t**>(thread_scratch(count * sizeof(const uint8_t*)));
    const OutputPixel first = walk_.pixel(begin * width);
    for (int32_t j = 0; j < count; ++j) {
      const uint8_t* at = image_row(first, 0, j);
      rows[j] = at ? at : args.padding;
    }
    args.rows = rows;
    args.out_rows = static_cast<int32_t>(end - begin);
    args.pixels = static_cast<int32_t>(width);
    place_output(args, begin * width);
    kernel_.fn[x_.is_signed](&args);
  }

  void run_any(WindowArgs& args, int64_t row) const {
    const int64_t width = walk_.size(2);
    const int64_t fitting = kPointerBytes / (args.taps * int64_t{sizeof(const uint8_t*)});
    const int64_t most = std::clamp<int64_t>(fitting, 1, kWindowPixels);
    auto** rows = reinterpret_cast<const uint8_t**>(
        thread_scratch(most * args.taps * sizeof(const uint8_t*)));
    args.rows = rows;
    args.out_rows = 1;
    for (int64_t first = 0; first < width; first += most) {
      args.pixels = static_cast<int32_t>(std::min(most, width - first));
      point(walk_.pixel(row * width + first), args, rows);
      place_output(args, row * width + first);
      kernel_.fn[x_.is_signed](&args);
    }
  }

  // rows[pixel][tap] of args.pixels output pixels in one row, from p on.
  void point(const OutputPixel& p, const WindowArgs& args, const uint8_t** rows) const {
    const int64_t stride = geometry_.stride[2], start = walk_.start(2, p.at[2]);
    for (int32_t i = 0; i < geometry_.kernel[0]; ++i) {
      for (int32_t j = 0; j < geometry_.kernel[1]; ++j) {
        const uint8_t* at = image_row(p, i, j);
        for (int32_t c = 0; c < geometry_.kernel[2]; ++c, ++rows) {
          const int64_t column = start + int64_t{c} * geometry_.dilation[2];
          // Pixels [begin, end) have the tap inside the image.
          int64_t begin = 0, end = 0;
          if (at) {
            begin = std::clamp<int64_t>(ceil_div(-column, stride), 0, args.pixels);
            end = std::clamp<int64_t>(ceil_div(x_.size[2] - column, stride), begin, args.pixels);
          }
          const uint8_t** to = rows;
          int64_t n = 0;
          for (; n < begin; ++n, to += args.taps) *to = args.padding;
          const uint8_t* from =
              begin < end ? at + (column + begin * stride) * x_.stride[2] : nullptr;
          for (; n < end; ++n, to += args.taps, from += stride * x_.stride[2]) *to = from;
          for (; n < args.pixels; ++n, to += args.taps) *to = args.padding;
        }
      }
    }
  }

  const WindowKernel& kernel_;
  const ConvGeometry& geometry_;
  const WindowWalk& walk_;
  const ImageView& x_;
  const OutputPlaces& out_;
  const WindowArgs& args_;
  int64_t rows_per_task_, tasks_per_plane_, part_, parts_, tasks_;
};

}  // namespace

bool takes_window_kernels(int32_t groups, int32_t n, int32_t k, const WeightParams& params) {
  const auto& zeros = params.zero_point;
  return groups > 1 && PackedWindow::fits(n, k) &&
         std::all_of(zeros.begin(), zeros.end(), [](int32_t z) { return z == 0; });
}

void window_conv(const QuantizedWeight& w, const ConvGeometry& geometry, const WindowWalk& walk,
                 const ImageView& x, QParams input, const OutputSpec& output,
                 const Residual& residual, const OutputPlaces& out) {
  check_qparams("input", input, x.is_signed);
  if (element_size(output.kind) == 1)
    check_qparams("output", output.out, output.kind == OutKind::kS8);
  const PackedWindow& packed = w.window();
  const KernelSet& set = cpu::kernels();
  const int32_t offset = set.window[0].a_offset[x.is_signed];
  const auto params = w.channel_params(input, output, offset);
  Epilogue epilogue = make_epilogue(w, *params, output);
  add_residual(epilogue, residual, output);

  WindowArgs args{};
  args.taps = w.shape().taps;
  args.pixel_stride = x.stride[2];
  args.columns = static_cast<int32_t>(x.size[2]);
  args.first = static_cast<int32_t>(walk.start(2, 0));
  args.end = packed.units();
  args.w = packed.data();
  args.in_channels = x.channels;
  args.chunks = packed.chunks();
  args.out_stride = out.stride[2];
  args.out_row_stride = out.stride[1];
  args.kind = output.kind;
  args.epilogue = &epilogue;
  const WindowKernel& kernel = select(set, packed.kind(), geometry, args);
  cpu::set_last_kernel(kernel.name);
  if (walk.pixels() == 0) return;

  uint8_t* padding = call_scratch(x.channels);
  std::memset(padding, input.zero_point, x.channels);
  args.padding = padding;
  const WindowRun run(kernel, geometry, walk, x, out, args);
  parallel_for(run.tasks(), walk.pixels() * w.shape().elements(), [&](int64_t task) { run(task); });
}

}  // namespace octavo
