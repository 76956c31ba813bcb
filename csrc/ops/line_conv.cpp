#include "ops/line_conv.h"

#include <algorithm>

#include "parallel/parallel.h"

namespace octavo {
namespace {

// Widened lines that a task keeps. What a task needs of its first and last lines it shares with its
// neighbours, who widen them again.
constexpr int64_t kLineBytes = 64 * 1024;
constexpr int64_t kLineLimit = 768 * 1024;
// Tasks for each thread, so that none waits long for the last.
constexpr int64_t kTasksPerThread = 4;
// Narrower images leave the last of a line's tiles of rows too empty.
constexpr int64_t kLeastWidth = 16;

// Bytes of a widened line: all columns that windows of a line cover, and an element more, which
// kernels read where k is odd.
int64_t line_pitch(const ConvGeometry& g, const WindowWalk& walk, int64_t channels) {
  const int64_t columns = (walk.size(2) - 1) * g.stride[2] + g.kernel[2];
  return round_up((columns * channels + 1) * int64_t{sizeof(uint16_t)}, kAlignment);
}

// Image lines under `rows` lines of output.
int64_t image_lines(const ConvGeometry& g, int64_t rows) {
  return (rows - 1) * g.stride[1] + int64_t{g.kernel[1] - 1} * g.dilation[1] + 1;
}

// What the tasks of a call share. A task is some lines of one plane of the output.
class LineRun {
 public:
  static int64_t tap_bytes(const ConvGeometry& g) { return g.kernel[1] * sizeof(ptrdiff_t); }

  LineRun(const GemmCall& call, const ConvGeometry& geometry, const WindowWalk& walk,
          const ImageView& x, ptrdiff_t* tap)
      : call_(call),
        kernel_(*call.set->lines),
        geometry_(geometry),
        walk_(walk),
        x_(x),
        tap_(tap),
        pitch_(line_pitch(geometry, walk, x.channels)) {
    for (int32_t t = 0; t < geometry.kernel[1]; ++t) tap[t] = t * geometry.dilation[1] * pitch_;
    const int64_t height = walk.size(1), planes = walk.pixels() / (height * walk.size(2));
    const int64_t wanted = max_threads() > 1 ? kTasksPerThread * max_threads() : 1;
    rows_ = std::clamp<int64_t>(planes * height / wanted, 1, height);
    while (rows_ > 1 && image_lines(geometry, rows_) * pitch_ > kLineBytes) --rows_;
    blocks_ = ceil_div(height, rows_);
    tasks_ = planes * blocks_;
  }

  int64_t tasks() const { return tasks_; }

  void operator()(int64_t task) const {
    const int64_t height = walk_.size(1), width = walk_.size(2), first = task % blocks_ * rows_;
    const int64_t rows = std::min(rows_, height - first);
    const int64_t begin = (task / blocks_ * height + first) * width;
    const int64_t line_bytes = image_lines(geometry_, rows_) * pitch_;
    uint8_t* lines = thread_scratch(line_bytes + kernel_.scratch_bytes);
    widen(walk_.pixel(begin), image_lines(geometry_, rows), lines);

    GemmArgs args{};
    args.scratch = lines + line_bytes;
    args.tap = tap_;
    args.taps = geometry_.kernel[1];
    args.k = geometry_.kernel[2] * x_.channels;
    args.a_stride = int64_t{geometry_.stride[2]} * x_.channels * sizeof(uint16_t);
    args.m = static_cast<int32_t>(width);
    args.kind = call_.kind;
    args.epilogue = &call_.epilogue;
    args.out_stride = call_.out_stride;
    const KernelScope scope(*call_.set);
    for (int32_t p = 0; p < call_.packed->panels(); ++p) {
      for (int64_t row = 0; row < rows; ++row) {
        args.a = lines + row * geometry_.stride[1] * pitch_;
        run_panel(p, begin + row * width, args);
      }
    }
  }

 private:
  // `count` image lines from the one under the first kernel row of `first` on.
  void widen(const OutputPixel& first, int64_t count, uint8_t* to) const {
    const int64_t columns = pitch_ / int64_t{sizeof(uint16_t)} / x_.channels;
    const int64_t left = std::min<int64_t>(geometry_.padding[2], columns);
    const int64_t inside = std::clamp<int64_t>(columns - left, 0, x_.size[2]) * x_.channels;
    const auto zero = static_cast<uint16_t>(call_.input_zero + kernel_.a_offset[call_.a_signed]);
    const auto* plane = static_cast<const uint8_t*>(x_.data) + first.batch * x_.batch_stride +
                        walk_.start(0, first.at[0]) * x_.stride[0];
    int64_t line = walk_.start(1, first.at[1]);
    for (int64_t i = 0; i < count; ++i, ++line, to += pitch_) {
      auto* elements = reinterpret_cast<uint16_t*>(to);
      auto* end = reinterpret_cast<uint16_t*>(to + pitch_);
      if (line < 0 || line >= x_.size[1]) {
        std::fill(elements, end, zero);
        continue;
      }
      uint16_t* image = std::fill_n(elements, left * x_.channels, zero);
      kernel_.widen[call_.a_signed](plane + line * x_.stride[1], inside, image);
      std::fill(image + inside, end, zero);
    }
  }

  // A line of output, of which `pixel` is the first.
  void run_panel(int32_t panel, int64_t pixel, GemmArgs& args) const {
    const PackedWeight& packed = *call_.packed;
    const int32_t columns = packed.panel_columns(panel), n0 = panel * packed.format().nr;
    args.b_stride = packed.panel_stride(panel);
    args.m0 = static_cast<int32_t>(pixel);
    for (int32_t c = 0; c < columns; c += kernel_.nr) {
      args.n = std::min<int32_t>(kernel_.nr, columns - c);
      args.n0 = n0 + c;
      args.b = packed.panel(0, panel) + c * packed.format().kr;
      args.out = static_cast<char*>(call_.out) + pixel * call_.out_stride +
                 args.n0 * static_cast<ptrdiff_t>(element_size(call_.kind));
      kernel_.fn(&args);
    }
  }

  const GemmCall& call_;
  const LineKernel& kernel_;
  const ConvGeometry& geometry_;
  const WindowWalk& walk_;
  const ImageView& x_;
  const ptrdiff_t* tap_;
  int64_t pitch_, rows_, blocks_, tasks_;
};

// Where rows, once prepared, serve many columns or are long, the GEMM kernels multiply faster than
// line kernels: with 512 bits from about here on, with 256 hardly before kLinePairs.
bool pays(const GemmCall& call, int64_t pairs) {
  return call.set->lines->nr <= 16 || (pairs <= 80 && pairs * call.packed->panels() <= 160);
}

}  // namespace

bool takes_line_kernel(const GemmCall& call, const ConvGeometry& g, const WindowWalk& walk) {
  if (!call.set->lines || cpu::gemm_kernel_is_forced()) return false;
  if (!walk.has_contiguous_rows() || walk.size(2) < kLeastWidth) return false;
  if (g.kernel[0] != 1 || g.padding[0] != 0 || g.padding_end[0] != 0) return false;
  if (call.weight->has_weight_zero_points()) return false;
  // Packed taps are kernel rows, or pixels that follow one another in k groups without padding.
  const WeightShape& shape = call.weight->shape();
  const int64_t row_k = shape.depth() / g.kernel[1];
  const bool by_rows = shape.taps == g.kernel[1];
  if (!by_rows && (shape.taps != g.taps() || shape.k % call.packed->format().kr != 0)) return false;
  const int64_t pairs = g.kernel[1] * ceil_div(row_k, 2);
  if (pairs > kLinePairs || !pays(call, pairs)) return false;
  const int64_t channels = row_k / g.kernel[2];
  return image_lines(g, 1) * line_pitch(g, walk, channels) <= kLineLimit;
}

void line_conv(const GemmCall& call, const ConvGeometry& geometry, const WindowWalk& walk,
               const ImageView& x) {
  auto* tap = reinterpret_cast<ptrdiff_t*>(call_scratch(LineRun::tap_bytes(geometry)));
  const LineRun run(call, geometry, walk, x, tap);
  cpu::set_last_kernel(call.set->lines->name);
  const int64_t cost = walk.pixels() * call.weight->shape().elements();
  parallel_for(run.tasks(), cost, [&](int64_t task) { run(task); });
}

}  // namespace octavo
