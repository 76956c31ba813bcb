#include "ops/pooling.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cpu/dispatch.h"
#include "ops/row_runs.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

// The average sums into int32; more pixels than this could overflow it.
constexpr int64_t kMaxWindow = 1 << 23;
// Column maxima of a task.
constexpr int64_t kScratchBytes = 1 << 18;

using Size3 = std::array<int64_t, 3>;

struct Range {
  int64_t begin, end, step;
  int64_t count() const { return begin < end ? (end - begin + step - 1) / step : 0; }
};

// Windows of fixed size at fixed distances.
class FixedWindows {
 public:
  FixedWindows(const PoolGeometry& geometry, const Size3& input) : g_(geometry), input_(input) {}

  int64_t output_size(int dim) const { return g_.output_size(dim, input_[dim]); }

  // The input coordinates that window `out` covers inside the image.
  Range at(int dim, int64_t out) const {
    const int64_t first = out * g_.stride[dim] - g_.padding[dim], step = g_.dilation[dim];
    const int64_t end = std::min(first + step * (g_.kernel[dim] - 1) + 1, input_[dim]);
    const int64_t skipped = first < 0 ? ceil_div(-first, step) * step : 0;
    return {first + skipped, end, step};
  }

  // The outputs whose windows lie inside the image's width: all alike, stride() apart.
  Range alike() const {
    const int64_t span = int64_t{g_.dilation[2]} * (g_.kernel[2] - 1) + 1;
    const int64_t room = input_[2] - span + g_.padding[2];
    const int64_t end = room < 0 ? 0 : std::min(room / g_.stride[2] + 1, output_size(2));
    return {std::min<int64_t>(ceil_div(g_.padding[2], g_.stride[2]), end), end, 1};
  }
  int64_t stride() const { return g_.stride[2]; }

  // Positions that a window counts with its padding; what hangs over the padding never counts.
  int64_t padded_pixels(const Size3& at) const {
    int64_t pixels = 1;
    for (int d = 0; d < 3; ++d) {
      const int64_t first = at[d] * g_.stride[d] - g_.padding[d];
      pixels *= std::min(first + g_.kernel[d], input_[d] + g_.padding[d]) - first;
    }
    return pixels;
  }

 private:
  const PoolGeometry& g_;
  const Size3& input_;
};

// Windows that divide the input into a given number of parts, which may overlap by one.
class AdaptiveWindows {
 public:
  AdaptiveWindows(const Size3& output, const Size3& input) : output_(output), input_(input) {}

  int64_t output_size(int dim) const { return output_[dim]; }
  Range at(int dim, int64_t out) const {
    const int64_t size = output_[dim], input = input_[dim];
    return {out * input / size, ceil_div((out + 1) * input, size), 1};
  }
  Range alike() const { return {0, input_[2] % output_[2] == 0 ? output_[2] : 0, 1}; }
  int64_t stride() const { return input_[2] / output_[2]; }

 private:
  const Size3& output_;
  const Size3& input_;
};

// One dimension fewer where the rows of a window follow each other like the pixels of one.
void merge_taps(PoolArgs& args) {
  const auto merge = [&](int outer, int inner) {
    if (args.taps[inner] == 1) {
      args.tap_stride[inner] = args.tap_stride[outer];
    } else if (args.taps[outer] != 1 &&
               args.tap_stride[outer] != args.taps[inner] * args.tap_stride[inner]) {
      return;
    }
    args.taps[inner] *= args.taps[outer];
    args.taps[outer] = 1;
  };
  merge(1, 2);
  merge(0, args.taps[1] == 1 ? 2 : 1);
}

// How the output is divided into tasks: rows of pixels, and where there are few, parts of their
// pixels or channels.
struct Tasks {
  Tasks(int64_t rows, int64_t width, int32_t channels, int64_t most_width, int32_t most_channels)
      : rows(rows) {
    if (rows == 0) return;
    const int64_t wanted = max_threads() > 1 ? 4 * int64_t{max_threads()} : 1;
    width_step = std::max<int64_t>(1, most_width);
    if (rows < wanted) {
      width_step = std::min(width_step, std::max<int64_t>(8, ceil_div(width * rows, wanted)));
    }
    across = ceil_div(width, width_step);
    channel_step = most_channels;
    if (rows * across < wanted) {
      const int64_t step = round_up(ceil_div(channels * rows * across, wanted), kChannelStep);
      channel_step = static_cast<int32_t>(std::min<int64_t>(most_channels, step));
    }
    parts = ceil_div(channels, channel_step);
  }
  int64_t count() const { return rows * across * parts; }

  static constexpr int64_t kChannelStep = 256;  // bytes: whole cache lines and vectors
  int64_t rows, across = 0, parts = 0;
  int64_t width_step = 1;
  int32_t channel_step = 1;
};

// One task's part of the output: pixels [begin, end) of row `h` of plane `d`, some channels.
struct Part {
  const uint8_t* image;  // its first channel in pixel (0, 0, 0) of image `n`
  uint8_t* out;          // its first channel in pixel 0 of the row
  int32_t channels;
  int64_t d, h, begin, end;
};

template <typename Windows, typename Body>
void for_parts(const ImageView& x, const Windows& windows, const Tasks& tasks, int64_t taps,
               void* out, Body body) {
  const int64_t depth = windows.output_size(0), height = windows.output_size(1),
                width = windows.output_size(2);
  // A byte takes a quarter of the time of what kSerialGrain counts: 256 KiB are read in 3 us, which
  // is what opening a region costs.
  const int64_t cost = tasks.rows * width * std::min<int64_t>(taps, 1 << 20) * x.channels / 4;
  parallel_for(tasks.count(), cost, [&](int64_t task) {
    const int64_t c = task % tasks.parts * tasks.channel_step;
    const int64_t rest = task / tasks.parts, row = rest / tasks.across;
    const int64_t h = row % height, d = row / height % depth, n = row / height / depth;
    const int64_t begin = rest % tasks.across * tasks.width_step;
    body(Part{static_cast<const uint8_t*>(x.data) + n * x.batch_stride + c,
              static_cast<uint8_t*>(out) + row * width * x.channels + c,
              static_cast<int32_t>(std::min<int64_t>(tasks.channel_step, x.channels - c)), d, h,
              begin, std::min(width, begin + tasks.width_step)});
  });
}

// Calls run(args, pixel) for runs of the part's pixels whose windows are alike; args lacks scale
// and zero point. `image` holds the rows of `d` and `h`, whose pixels start at column `column`.
template <typename Windows, typename Run>
void for_runs(const Part& part, const Windows& windows, const uint8_t* image, int64_t column,
              const Range& d, const Range& h, const std::array<ptrdiff_t, 3>& stride,
              ptrdiff_t out_stride, Run run) {
  const Range alike = windows.alike();
  for (int64_t w = part.begin; w < part.end;) {
    const Range r = windows.at(2, w);
    PoolArgs args{};
    const bool inside = w >= alike.begin && w < alike.end;
    args.pixels = inside ? std::min(alike.end, part.end) - w : 1;
    const Range* ranges[3] = {&d, &h, &r};
    for (int i = 0; i < 3; ++i) {
      args.taps[i] = static_cast<int32_t>(ranges[i]->count());
      args.tap_stride[i] = ranges[i]->step * stride[i];
    }
    const bool empty = args.taps[0] == 0 || args.taps[1] == 0 || args.taps[2] == 0;
    if (empty) {  // a dilated window may straddle the whole image
      args.taps[0] = args.taps[1] = args.taps[2] = 0;
      args.in = image;
    } else {
      args.in = image + d.begin * stride[0] + h.begin * stride[1] + (r.begin - column) * stride[2];
      merge_taps(args);
    }
    args.in_stride = windows.stride() * stride[2];
    args.channels = part.channels;
    args.out = part.out + w * out_stride;
    args.out_stride = out_stride;
    run(args, w);
    w += args.pixels;
  }
}

void check_window(int64_t pixels) {
  if (pixels <= kMaxWindow) return;
  throw std::invalid_argument("kernel_size: a window of " + std::to_string(pixels) +
                              " pixels; the average is exact up to " + std::to_string(kMaxWindow));
}

int64_t kernel_pixels(const PoolGeometry& g) {
  return int64_t{g.kernel[0]} * g.kernel[1] * g.kernel[2];
}

template <typename Windows>
int64_t output_rows(const ImageView& x, const Windows& windows) {
  if (windows.output_size(2) <= 0 || x.channels == 0) return 0;
  return x.batch * windows.output_size(0) * windows.output_size(1);
}

template <typename Windows>
void max_of_windows(const ImageView& x, const Windows& windows, int64_t taps, void* out) {
  const auto fn = cpu::kernels().elementwise.max_pool[x.is_signed];
  const Tasks tasks(output_rows(x, windows), windows.output_size(2), x.channels,
                    windows.output_size(2), x.channels);
  for_parts(x, windows, tasks, taps, out, [&](const Part& part) {
    for_runs(part, windows, part.image, 0, windows.at(0, part.d), windows.at(1, part.h), x.stride,
             x.channels, [&](const PoolArgs& args, int64_t) { fn(&args); });
  });
}

// Windows that overlap along the width share the maxima of their columns. For each output row: one
// pass down the columns into scratch, one along them. (Where the window is up to 3 wide, the
// kernels share columns in registers.)
bool columns_pay(const PoolGeometry& g) {
  const int64_t rows = int64_t{g.kernel[0]} * g.kernel[1];
  return g.dilation[2] == 1 && g.kernel[2] > 3 &&
         rows * g.kernel[2] > (rows + 1) * g.stride[2] + g.kernel[2];
}

void max_of_columns(const ImageView& x, const FixedWindows& windows, const PoolGeometry& g,
                    void* out) {
  const auto fn = cpu::kernels().elementwise.max_pool[x.is_signed];
  const int32_t most_channels = std::min<int32_t>(x.channels, 1024);
  const int64_t most_columns = kScratchBytes / most_channels;
  const Tasks tasks(output_rows(x, windows), windows.output_size(2), x.channels,
                    (most_columns - g.kernel[2]) / g.stride[2] + 1, most_channels);
  for_parts(x, windows, tasks, kernel_pixels(g), out, [&](const Part& part) {
    const Range d = windows.at(0, part.d), h = windows.at(1, part.h);
    const int64_t first = windows.at(2, part.begin).begin;
    const int64_t end = std::max(first, windows.at(2, part.end - 1).end);
    uint8_t* columns = thread_scratch((end - first) * part.channels);
    PoolArgs down{};
    down.taps[0] = static_cast<int32_t>(d.count());
    down.taps[1] = static_cast<int32_t>(h.count());
    down.taps[2] = 1;
    if (down.taps[0] == 0 || down.taps[1] == 0) down.taps[2] = 0;
    down.tap_stride[0] = d.step * x.stride[0];
    down.tap_stride[1] = h.step * x.stride[1];
    down.in = part.image;
    if (down.taps[2]) {
      down.in = part.image + d.begin * x.stride[0] + h.begin * x.stride[1] + first * x.stride[2];
      merge_taps(down);
    }
    down.pixels = end - first;
    down.in_stride = x.stride[2];
    down.channels = part.channels;
    down.out = columns;
    down.out_stride = part.channels;
    fn(&down);
    for_runs(part, windows, columns, first, {0, 1, 1}, {0, 1, 1}, {0, 0, part.channels}, x.channels,
             [&](const PoolArgs& args, int64_t) { fn(&args); });
  });
}

// `divisor(pixels inside the image, position)` of each output.
template <typename Windows, typename Divisor>
void mean_of_windows(const ImageView& x, int32_t zero_point, const Windows& windows, int64_t taps,
                     void* out, Divisor divisor) {
  const auto fn = cpu::kernels().elementwise.avg_pool[x.is_signed];
  const Tasks tasks(output_rows(x, windows), windows.output_size(2), x.channels,
                    windows.output_size(2), x.channels);
  for_parts(x, windows, tasks, taps, out, [&](const Part& part) {
    for_runs(part, windows, part.image, 0, windows.at(0, part.d), windows.at(1, part.h), x.stride,
             x.channels, [&](PoolArgs& args, int64_t w) {
               const int64_t inside = int64_t{args.taps[0]} * args.taps[1] * args.taps[2];
               const int64_t by = divisor(inside, Size3{part.d, part.h, w});
               args.scale = 1.0f / static_cast<float>(by ? by : 1);
               args.zero_point = zero_point;
               fn(&args);
             });
  });
}

int64_t largest_window(const ImageView& x, const Size3& output_size) {
  int64_t most = 1;
  for (int d = 0; d < 3; ++d) {
    if (output_size[d] > 0) {
      most *= ceil_div(x.size[d], output_size[d]) + (x.size[d] % output_size[d] != 0);
    }
  }
  return most;
}

}  // namespace

int64_t PoolGeometry::output_size(int dim, int64_t input) const {
  const int64_t span = int64_t{dilation[dim]} * (kernel[dim] - 1) + 1;
  const int64_t room = input + 2 * int64_t{padding[dim]} - span;
  if (room < 0 && !(ceil_mode && room + stride[dim] > 0)) return 0;
  int64_t size = (ceil_mode ? ceil_div(room, stride[dim]) : room / stride[dim]) + 1;
  if (ceil_mode && (size - 1) * stride[dim] >= input + padding[dim]) --size;
  return size;
}

void max_pool(const ImageView& x, const PoolGeometry& g, void* out) {
  if (x.channels == 0) return;
  const FixedWindows windows(g, x.size);
  if (columns_pay(g) && g.kernel[2] <= kScratchBytes / std::min(x.channels, 1024) / 2) {
    return max_of_columns(x, windows, g, out);
  }
  max_of_windows(x, windows, kernel_pixels(g), out);
}

void avg_pool(const ImageView& x, int32_t zero_point, const PoolGeometry& g,
              const AveragePoolOptions& options, void* out) {
  check_window(kernel_pixels(g));
  const FixedWindows windows(g, x.size);
  mean_of_windows(x, zero_point, windows, kernel_pixels(g), out,
                  [&](int64_t inside, const Size3& at) -> int64_t {
                    if (options.divisor_override) return options.divisor_override;
                    return options.count_include_pad ? windows.padded_pixels(at) : inside;
                  });
}

void adaptive_max_pool(const ImageView& x, const Size3& output_size, void* out) {
  if (output_size[2] == 0) return;
  const AdaptiveWindows windows(output_size, x.size);
  max_of_windows(x, windows, largest_window(x, output_size), out);
}

void adaptive_avg_pool(const ImageView& x, int32_t zero_point, const Size3& output_size,
                       void* out) {
  if (output_size[2] == 0) return;
  const int64_t most = largest_window(x, output_size);
  check_window(most);
  const AdaptiveWindows windows(output_size, x.size);
  mean_of_windows(x, zero_point, windows, most, out,
                  [](int64_t inside, const Size3&) { return inside; });
}

}  // namespace octavo
