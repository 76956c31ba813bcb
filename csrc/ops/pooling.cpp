#include "ops/pooling.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "ops/row_runs.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

// The average sums into int32; more pixels than this could overflow it.
constexpr int64_t kMaxWindow = 1 << 23;

using Size3 = std::array<int64_t, 3>;

struct Range {
  int64_t begin, end, step;
  int64_t count() const { return begin < end ? (end - begin + step - 1) / step : 0; }
};

Size3 pooled_size(const ImageView& x, const PoolGeometry& g) {
  Size3 size;
  for (int d = 0; d < 3; ++d) size[d] = g.output_size(d, x.size[d]);
  return size;
}

// The input coordinates that window `out` covers inside the image.
Range window(const PoolGeometry& g, int dim, int64_t out, int64_t input) {
  const int64_t first = out * g.stride[dim] - g.padding[dim];
  const int64_t end = std::min(first + int64_t{g.dilation[dim]} * (g.kernel[dim] - 1) + 1, input);
  const int64_t skipped = first < 0 ? ceil_div(-first, g.dilation[dim]) * g.dilation[dim] : 0;
  return {first + skipped, end, g.dilation[dim]};
}

Range adaptive_window(int64_t out, int64_t input, int64_t output) {
  return {out * input / output, ceil_div((out + 1) * input, output), 1};
}

// For each output pixel: the rows of its window's pixels, then fn(rows, count, output index,
// position).
template <typename WindowOf, typename Body>
void for_windows(const ImageView& x, const Size3& size, int64_t most_taps, WindowOf window_of,
                 Body body) {
  const int64_t planes = x.batch * size[0] * size[1];
  const int64_t cost = planes * size[2] * most_taps * x.channels;
  parallel_for(planes, cost, [&](int64_t plane) {
    auto** rows = reinterpret_cast<const void**>(thread_scratch(most_taps * sizeof(void*)));
    const int64_t h = plane % size[1], d = plane / size[1] % size[0], n = plane / size[1] / size[0];
    const Range rd = window_of(0, d), rh = window_of(1, h);
    for (int64_t w = 0; w < size[2]; ++w) {
      const Range rw = window_of(2, w);
      int32_t count = 0;
      const char* image = static_cast<const char*>(x.data) + n * x.batch_stride;
      for (int64_t i = rd.begin; i < rd.end; i += rd.step) {
        for (int64_t j = rh.begin; j < rh.end; j += rh.step) {
          for (int64_t k = rw.begin; k < rw.end; k += rw.step) {
            rows[count++] = image + i * x.stride[0] + j * x.stride[1] + k * x.stride[2];
          }
        }
      }
      body(rows, count, plane * size[2] + w, Size3{d, h, w});
    }
  });
}

int64_t kernel_pixels(const PoolGeometry& g) {
  return int64_t{g.kernel[0]} * g.kernel[1] * g.kernel[2];
}

void check_window(int64_t pixels) {
  if (pixels <= kMaxWindow) return;
  throw std::invalid_argument("kernel_size: a window of " + std::to_string(pixels) +
                              " pixels; the average is exact up to " + std::to_string(kMaxWindow));
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
  const auto fn = cpu::kernels().elementwise.max_pool[x.is_signed];
  const auto window_of = [&](int dim, int64_t o) { return window(g, dim, o, x.size[dim]); };
  for_windows(x, pooled_size(x, g), kernel_pixels(g), window_of,
              [&](const void* const* rows, int32_t count, int64_t index, const Size3&) {
                char* pixel = static_cast<char*>(out) + index * x.channels;
                if (count == 0) {  // a dilated window may straddle the whole image
                  std::memset(pixel, x.is_signed ? -128 : 0, x.channels);
                  return;
                }
                const PoolArgs args{rows, count, x.channels, pixel, 0.0f, 0};
                fn(&args);
              });
}

void avg_pool(const ImageView& x, int32_t zero_point, const PoolGeometry& g,
              const AveragePoolOptions& options, void* out) {
  check_window(kernel_pixels(g));
  const auto fn = cpu::kernels().elementwise.avg_pool[x.is_signed];
  const auto window_of = [&](int dim, int64_t o) { return window(g, dim, o, x.size[dim]); };
  // A window may hang over the end of the padding in ceil mode; what hangs over never counts.
  const auto padded_pixels = [&](const Size3& at) {
    int64_t pixels = 1;
    for (int d = 0; d < 3; ++d) {
      const int64_t first = at[d] * g.stride[d] - g.padding[d];
      pixels *= std::min(first + g.kernel[d], x.size[d] + g.padding[d]) - first;
    }
    return pixels;
  };
  for_windows(x, pooled_size(x, g), kernel_pixels(g), window_of,
              [&](const void* const* rows, int32_t count, int64_t index, const Size3& at) {
                int64_t divisor = options.divisor_override;
                if (!divisor) divisor = options.count_include_pad ? padded_pixels(at) : count;
                const float scale = 1.0f / static_cast<float>(divisor ? divisor : 1);
                const PoolArgs args{rows,       count,
                                    x.channels, static_cast<char*>(out) + index * x.channels,
                                    scale,      zero_point};
                fn(&args);
              });
}

void adaptive_avg_pool(const ImageView& x, int32_t zero_point, const Size3& output_size,
                       void* out) {
  int64_t most = 1;
  for (int d = 0; d < 3; ++d) {
    if (output_size[d] > 0) most *= ceil_div(x.size[d], output_size[d]) + 1;
  }
  check_window(most);
  const auto fn = cpu::kernels().elementwise.avg_pool[x.is_signed];
  const auto window_of = [&](int dim, int64_t o) {
    return adaptive_window(o, x.size[dim], output_size[dim]);
  };
  for_windows(x, output_size, most, window_of,
              [&](const void* const* rows, int32_t count, int64_t index, const Size3&) {
                const PoolArgs args{rows,
                                    count,
                                    x.channels,
                                    static_cast<char*>(out) + index * x.channels,
                                    1.0f / static_cast<float>(count),
                                    zero_point};
                fn(&args);
              });
}

}  // namespace octavo
