#include <algorithm>
#include <vector>

#include "ref/reference.h"

namespace octavo::ref {
namespace {

int32_t storage_min(bool is_signed) { return is_signed ? -128 : 0; }

// zp + rne(sum * scale), saturated to the storage type.
int32_t average(int64_t sum, float scale, int32_t zero_point, bool is_signed) {
  const int32_t lo = storage_min(is_signed) - zero_point;
  return zero_point + round_and_clamp(static_cast<float>(sum) * scale, lo, lo + 255);
}

// The half-open ranges of input positions that one window covers, and how many positions it counts
// with padding.
struct Range {
  int64_t begin, end, step, padded_count;
};

Range pool_range(const Pool& pool, int dim, int64_t output, int64_t input) {
  const int64_t first = output * pool.stride[dim] - pool.padding[dim];
  const int64_t step = pool.dilation[dim];
  const int64_t last = first + step * (pool.kernel[dim] - 1) + 1;
  const int64_t padded_end = std::min(last, input + pool.padding[dim]);
  int64_t begin = first;
  while (begin < 0) begin += step;
  return {begin, std::min(last, input), step, padded_end - first};
}

// Calls visit(row, batch, ranges) for each output pixel in order.
template <typename Ranges, typename Visit>
void for_each_window(const Image& x, const std::array<int64_t, 3>& out_size, Ranges ranges,
                     Visit visit) {
  int64_t row = 0;
  for (int64_t b = 0; b < x.batch; ++b) {
    for (int64_t i = 0; i < out_size[0]; ++i) {
      for (int64_t j = 0; j < out_size[1]; ++j) {
        for (int64_t l = 0; l < out_size[2]; ++l, ++row) {
          visit(row, b, std::array<Range, 3>{ranges(0, i), ranges(1, j), ranges(2, l)});
        }
      }
    }
  }
}

// Calls visit(q) for each input value of one channel that a window covers.
template <typename Visit>
void for_each_value(const Image& x, int64_t batch, const std::array<Range, 3>& range,
                    int32_t channel, Visit visit) {
  for (int64_t d = range[0].begin; d < range[0].end; d += range[0].step) {
    for (int64_t h = range[1].begin; h < range[1].end; h += range[1].step) {
      for (int64_t w = range[2].begin; w < range[2].end; w += range[2].step) {
        visit(x.bytes.at(x.index(batch, d, h, w) + channel));
      }
    }
  }
}

std::array<int64_t, 3> output_sizes(const Pool& pool, const Image& x) {
  return {pool.output_size(0, x.size[0]), pool.output_size(1, x.size[1]),
          pool.output_size(2, x.size[2])};
}

}  // namespace

int64_t Pool::output_size(int dim, int64_t input) const {
  const int64_t reach = int64_t{dilation[dim]} * (kernel[dim] - 1) + 1;
  const int64_t room = input + 2 * padding[dim] - reach + (ceil_mode ? stride[dim] - 1 : 0);
  if (room < 0) return 0;
  const int64_t size = room / stride[dim] + 1;
  // A window that starts in the padding behind the image is dropped.
  return ceil_mode && (size - 1) * stride[dim] >= input + padding[dim] ? size - 1 : size;
}

void max_pool(const Image& x, const Pool& pool, void* out) {
  const auto ranges = [&](int dim, int64_t output) {
    return pool_range(pool, dim, output, x.size[dim]);
  };
  for_each_window(x, output_sizes(pool, x), ranges,
                  [&](int64_t row, int64_t b, const std::array<Range, 3>& range) {
                    for (int32_t c = 0; c < x.channels; ++c) {
                      int32_t best = storage_min(x.bytes.is_signed);
                      for_each_value(x, b, range, c, [&](int32_t q) { best = std::max(best, q); });
                      store_byte(out, row * x.channels + c, x.bytes.is_signed, best);
                    }
                  });
}

void avg_pool(const Image& x, int32_t zero_point, const Pool& pool, void* out) {
  const auto ranges = [&](int dim, int64_t output) {
    return pool_range(pool, dim, output, x.size[dim]);
  };
  for_each_window(
      x, output_sizes(pool, x), ranges,
      [&](int64_t row, int64_t b, const std::array<Range, 3>& range) {
        for (int32_t c = 0; c < x.channels; ++c) {
          int64_t sum = 0, count = 0;
          for_each_value(x, b, range, c, [&](int32_t q) {
            sum += q - zero_point;
            ++count;
          });
          int64_t divisor = pool.divisor_override;
          if (divisor == 0) {
            divisor = pool.count_include_pad
                          ? range[0].padded_count * range[1].padded_count * range[2].padded_count
                          : count;
          }
          const int32_t q =
              average(sum, 1.0f / static_cast<float>(divisor), zero_point, x.bytes.is_signed);
          store_byte(out, row * x.channels + c, x.bytes.is_signed, q);
        }
      });
}

void adaptive_max_pool(const Image& x, const std::array<int64_t, 3>& output_size, void* out) {
  const auto ranges = [&](int dim, int64_t output) {
    const int64_t in = x.size[dim], of = output_size[dim];
    return Range{output * in / of, ((output + 1) * in + of - 1) / of, 1, 0};
  };
  for_each_window(x, output_size, ranges,
                  [&](int64_t row, int64_t b, const std::array<Range, 3>& range) {
                    for (int32_t c = 0; c < x.channels; ++c) {
                      int32_t best = storage_min(x.bytes.is_signed);
                      for_each_value(x, b, range, c, [&](int32_t q) { best = std::max(best, q); });
                      store_byte(out, row * x.channels + c, x.bytes.is_signed, best);
                    }
                  });
}

void adaptive_avg_pool(const Image& x, int32_t zero_point,
                       const std::array<int64_t, 3>& output_size, void* out) {
  const auto ranges = [&](int dim, int64_t output) {
    const int64_t in = x.size[dim], of = output_size[dim];
    return Range{output * in / of, ((output + 1) * in + of - 1) / of, 1, 0};
  };
  for_each_window(
      x, output_size, ranges, [&](int64_t row, int64_t b, const std::array<Range, 3>& range) {
        for (int32_t c = 0; c < x.channels; ++c) {
          int64_t sum = 0, count = 0;
          for_each_value(x, b, range, c, [&](int32_t q) {
            sum += q - zero_point;
            ++count;
          });
          const int32_t q =
              average(sum, 1.0f / static_cast<float>(count), zero_point, x.bytes.is_signed);
          store_byte(out, row * x.channels + c, x.bytes.is_signed, q);
        }
      });
}

namespace {

// Calls visit(byte offset from args.in) for each tap of an output pixel of a kernel call.
template <typename Visit>
void for_each_tap(const PoolArgs& args, int64_t pixel, Visit visit) {
  for (int64_t d = 0; d < args.taps[0]; ++d) {
    for (int64_t h = 0; h < args.taps[1]; ++h) {
      for (int64_t w = 0; w < args.taps[2]; ++w) {
        visit(pixel * args.in_stride + d * args.tap_stride[0] + h * args.tap_stride[1] +
              w * args.tap_stride[2]);
      }
    }
  }
}

}  // namespace

void max_pool_kernel(const PoolArgs& args, bool is_signed) {
  const Bytes in{args.in, is_signed};
  for (int64_t i = 0; i < args.pixels; ++i) {
    for (int32_t c = 0; c < args.channels; ++c) {
      int32_t best = storage_min(is_signed);
      for_each_tap(args, i, [&](int64_t at) { best = std::max(best, in.at(at + c)); });
      store_byte(args.out, i * args.out_stride + c, is_signed, best);
    }
  }
}

void avg_pool_kernel(const PoolArgs& args, bool is_signed) {
  const Bytes in{args.in, is_signed};
  for (int64_t i = 0; i < args.pixels; ++i) {
    for (int32_t c = 0; c < args.channels; ++c) {
      int64_t sum = 0;
      for_each_tap(args, i, [&](int64_t at) { sum += in.at(at + c) - args.zero_point; });
      store_byte(args.out, i * args.out_stride + c, is_signed,
                 average(sum, args.scale, args.zero_point, is_signed));
    }
  }
}

}  // namespace octavo::ref
