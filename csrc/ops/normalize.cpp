#include "ops/normalize.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

#include "cpu/dispatch.h"
#include "ops/row_runs.h"
#include "parallel/parallel.h"
#include "util/aligned_buffer.h"
#include "util/int128.h"

namespace octavo {
namespace {

constexpr int64_t kChunk = 1 << 14;  // bytes of a task, which stay in the L1 cache
constexpr int64_t kRun = 1 << 16;    // bytes that a task sums up
constexpr float kLargestByte = 255.0f;

const ElementwiseFns& fns() { return cpu::kernels().elementwise; }

const uint8_t* bytes(const void* p, int64_t offset) {
  return static_cast<const uint8_t*>(p) + offset;
}
uint8_t* bytes(void* p, int64_t offset) { return static_cast<uint8_t*>(p) + offset; }

// A parameter of AffineArgs: far beyond what saturates, and no product with it is NaN.
float bounded(double x) { return static_cast<float>(std::clamp(x, -1e30, 1e30)); }

AffineArgs affine_args(const ByteInput& x, const ByteOutput& y) {
  check_qparams("input", x.qparams, x.is_signed);
  check_qparams("output", y.qparams, y.is_signed);
  AffineArgs args{};
  args.out_zero = y.qparams.zero_point;
  args.out_signed = y.is_signed;
  args.lo = y.relu ? y.qparams.zero_point : y.is_signed ? -128 : 0;
  return args;
}

// The largest of a linear function's parameters.
struct Magnitudes {
  float scale, shift;

  // AffineArgs::stays_int32 where no input is beyond `x`. Not where anything is infinite.
  bool admit(float x) const { return x * scale + shift < 0x1p29f; }
};

Magnitudes magnitudes(const float* scale, const float* shift, int64_t count) {
  Magnitudes most{0.0f, 0.0f};
  for (int64_t i = 0; i < count; ++i) {
    most.scale = std::max(most.scale, std::fabs(scale[i]));
    most.shift = std::max(most.shift, std::fabs(shift[i]));
  }
  return most;
}

// Calls body(image) for each image: on a thread of its own where there are enough of them, else
// the body itself divides its work.
template <typename Body>
void for_images(int64_t batch, int64_t cost, const Body& body) {
  if (batch >= max_threads()) {
    parallel_for(batch, cost, [&](int64_t image) { body(image); });
  } else {
    for (int64_t image = 0; image < batch; ++image) body(image);
  }
}

// ---- linear functions by channel

// Pixels that make one row of a kernel call, so that its vectors are full.
int64_t pixels_per_row(int64_t channels) {
  const int64_t full = kAffinePad / std::gcd(channels, int64_t{kAffinePad});
  return channels <= kAffinePad ? full : std::min<int64_t>(full, 8);
}

// Floats that affine_channels_last() needs.
int64_t wide_floats(int64_t channels) {
  return 2 * round_up(pixels_per_row(channels) * channels, kAffinePad);
}

// Runs a kernel on the images of a channels-last tensor, or one of them; its scale and shift are
// those of channels, and are repeated in `wide` for the pixels of a row.
void affine_channels_last(AffineKind kind, AffineArgs all, const ByteInput& x, int64_t pixels,
                          int64_t channels, const float* scale, const float* shift, float* wide,
                          void* out) {
  const int64_t repeat = std::min(pixels_per_row(channels), pixels);
  const int64_t columns = repeat * channels, padded = round_up(columns, kAffinePad);
  for (int64_t i = 0; i < repeat; ++i) {
    std::copy_n(scale, channels, wide + i * channels);
    std::copy_n(shift, channels, wide + padded + i * channels);
  }
  std::fill(wide + columns, wide + padded, 0.0f);
  std::fill(wide + padded + columns, wide + 2 * padded, 0.0f);
  all.scale = wide;
  all.shift = wide + padded;
  all.stays_int32 = magnitudes(scale, shift, channels).admit(kLargestByte);
  all.in_stride = all.out_stride = columns;
  const auto fn = fns().affine[static_cast<int>(kind)][x.is_signed];
  const int64_t size = pixels * channels, rows = std::max<int64_t>(1, kChunk / columns);
  parallel_for(ceil_div(size, rows * columns), size, [&](int64_t task) {
    const int64_t begin = task * rows * columns, count = std::min(rows * columns, size - begin);
    AffineArgs args = all;
    args.in = bytes(x.data, begin);
    args.out = bytes(out, begin);
    args.rows = count / columns;
    args.columns = columns;
    if (args.rows) fn(&args);
    const int64_t done = args.rows * columns;
    if (done == count) return;  // the last pixels do not fill a row
    args.in = bytes(x.data, begin + done);
    args.out = bytes(out, begin + done);
    args.rows = 1;
    args.columns = count - done;
    fn(&args);
  });
}

// A plane, with one scale and shift: a function of 256 values.
void affine_plane(AffineKind kind, AffineArgs args, const ByteInput& x, int64_t begin, int64_t size,
                  float scale, float shift, void* out) {
  float same[2][kAffinePad];
  std::fill_n(same[0], kAffinePad, scale);
  std::fill_n(same[1], kAffinePad, shift);
  args.in = bytes(x.data, begin);
  args.out = bytes(out, begin);
  args.rows = 1;
  args.columns = size;
  args.scale = same[0];
  args.shift = same[1];
  args.uniform = 1;
  args.stays_int32 = magnitudes(&scale, &shift, 1).admit(kLargestByte);
  const auto fn = fns().affine[static_cast<int>(kind)][x.is_signed];
  const Lookup find = active_lookup();
  if (size < find.worth) return fn(&args);
  uint8_t table[256];
  args.in = kAllBytes.data();
  args.out = table;
  args.columns = 256;
  fn(&args);
  find.run(table, bytes(x.data, begin), size, bytes(out, begin));
}

// Any layout; scale and shift are those of channels, the same in all images.
void affine_channels(AffineKind kind, const AffineArgs& args, const ByteInput& x,
                     const ChannelLayout& l, const float* scale, const float* shift, void* out) {
  const int64_t size = l.batch * l.channels * l.pixels;
  if (size == 0) return;
  if (l.channels_last || l.pixels == 1) {
    float* const wide =
        reinterpret_cast<float*>(call_scratch(wide_floats(l.channels) * sizeof(float)));
    affine_channels_last(kind, args, x, l.batch * l.pixels, l.channels, scale, shift, wide, out);
    return;
  }
  const int64_t parts = ceil_div(l.pixels, kRun);
  parallel_for(l.batch * l.channels * parts, size, [&](int64_t task) {
    const int64_t plane = task / parts, begin = task % parts * kRun, c = plane % l.channels;
    affine_plane(kind, args, x, plane * l.pixels + begin, std::min(kRun, l.pixels - begin),
                 scale[c], shift[c], out);
  });
}

// ---- statistics

struct Moments {
  int64_t sum = 0, square = 0;  // of bytes that are flipped to uint8
};

// What normalization needs to know of n values, in steps of the input: 1 / deviation in units of
// the output's steps, and the mean.
struct Statistics {
  double mean, factor;
};

// n Q - S^2 rounded to a double once; in 64 bits where they hold it.
double spread_of(const Moments& m, int64_t n) {
  constexpr int64_t kSmall = 1 << 23;  // n^2 255^2 < 2^63
  if (n < kSmall) return static_cast<double>(n * m.square - m.sum * m.sum);
  return to_double(Int128{n} * m.square - Int128{m.sum} * m.sum);
}

Statistics statistics(const Moments& m, int64_t n, const ByteInput& x, double eps,
                      double out_scale) {
  const double count = static_cast<double>(n), scale = static_cast<double>(x.qparams.scale);
  const double variance = spread_of(m, n) / (count * count) * (scale * scale) + eps;
  const double mean = static_cast<double>(m.sum) / count - (x.is_signed ? 128.0 : 0.0);
  return {mean, variance > 0.0 ? scale / std::sqrt(variance) / out_scale : 0.0};
}

int32_t flip_of(const ByteInput& x) { return x.is_signed ? 128 : 0; }

void add_moments(const ByteInput& x, int64_t begin, int64_t size, Moments& m) {
  int64_t sums[2] = {};
  fns().moments(bytes(x.data, begin), size, flip_of(x), sums);
  m.sum += sums[0];
  m.square += sums[1];
}

// Of a long run, whose parts are summed up by several threads.
Moments run_moments(const ByteInput& x, int64_t begin, int64_t size) {
  constexpr int64_t kParts = 64;
  Moments parts[kParts];
  const int64_t part = std::max(kRun, ceil_div(size, kParts));
  parallel_for(ceil_div(size, part), size, [&](int64_t task) {
    add_moments(x, begin + task * part, std::min(part, size - task * part), parts[task]);
  });
  Moments total;
  for (const Moments& m : parts) {
    total.sum += m.sum;
    total.square += m.square;
  }
  return total;
}

// Of each channel of up to kMomentRows pixels, added to `out`. Few channels are taken several
// pixels at a time, so that vectors are full.
void add_channel_moments(const ByteInput& x, int64_t begin, int64_t pixels, int64_t channels,
                         Moments* out) {
  const int64_t repeat = std::clamp<int64_t>(64 / channels, 1, pixels), columns = repeat * channels;
  int32_t* const sums = reinterpret_cast<int32_t*>(thread_scratch(columns * 2 * sizeof(int32_t)));
  const auto take = [&](int64_t from, int64_t rows, int64_t width) {
    if (!rows) return;
    fns().column_moments(bytes(x.data, from), rows, width, width, flip_of(x), sums, sums + width);
    for (int64_t i = 0; i < width; ++i) {
      out[i % channels].sum += sums[i];
      out[i % channels].square += sums[width + i];
    }
  };
  const int64_t rows = pixels / repeat;
  take(begin, rows, columns);
  take(begin + rows * columns, pixels - rows * repeat, channels);
}

struct Affine {
  const float *weight, *bias;
  float scale(int64_t c, double factor) const {
    return bounded(factor * (weight ? static_cast<double>(weight[c]) : 1.0));
  }
  // For kernels that know no mean.
  float shift(int64_t c, const Statistics& s, double out_scale) const {
    const double slope = s.factor * (weight ? static_cast<double>(weight[c]) : 1.0);
    return bounded(shift_of(c, out_scale) - s.mean * slope);
  }
  double shift_of(int64_t c, double out_scale) const {
    return bias ? static_cast<double>(bias[c]) / out_scale : 0.0;
  }
};

// One image of a channels-last tensor. Channels' moments are summed up by tasks for themselves.
void group_norm_channels_last(const AffineArgs& args, const ByteInput& x, const ChannelLayout& l,
                              int64_t image, int64_t groups, const Affine& affine, double eps,
                              double out_scale, void* out) {
  constexpr int64_t kTasks = 8;
  const int64_t size = l.pixels * l.channels, begin = image * size;
  const int64_t tasks = std::clamp<int64_t>(ceil_div(size, kRun), 1, kTasks);
  const int64_t part = ceil_div(l.pixels, tasks), per_group = l.channels / groups;
  const int64_t sums = tasks * l.channels * static_cast<int64_t>(sizeof(Moments));
  uint8_t* const memory =
      call_scratch(sums + (2 * l.channels + wide_floats(l.channels)) * sizeof(float));
  Moments* const moments = reinterpret_cast<Moments*>(memory);
  std::fill_n(moments, tasks * l.channels, Moments{});
  float* const scale = reinterpret_cast<float*>(memory + sums);
  float* const shift = scale + l.channels;
  parallel_for(tasks, size, [&](int64_t task) {
    const int64_t end = std::min(l.pixels, (task + 1) * part);
    for (int64_t pixel = task * part; pixel < end; pixel += kMomentRows) {
      add_channel_moments(x, begin + pixel * l.channels, std::min(kMomentRows, end - pixel),
                          l.channels, moments + task * l.channels);
    }
  });
  for (int64_t g = 0; g < groups; ++g) {
    Moments total;
    for (int64_t task = 0; task < tasks; ++task) {
      for (int64_t i = 0; i < per_group; ++i) {
        const Moments& m = moments[task * l.channels + g * per_group + i];
        total.sum += m.sum;
        total.square += m.square;
      }
    }
    const Statistics s = statistics(total, per_group * l.pixels, x, eps, out_scale);
    for (int64_t c = g * per_group; c < (g + 1) * per_group; ++c) {
      scale[c] = affine.scale(c, s.factor);
      shift[c] = affine.shift(c, s, out_scale);
    }
  }
  const ByteInput here{bytes(x.data, begin), x.is_signed, x.qparams};
  affine_channels_last(AffineKind::kScaleShift, args, here, l.pixels, l.channels, scale, shift,
                       shift + l.channels, bytes(out, begin));
}

// One group of an image of planes.
void group_norm_planes(const AffineArgs& args, const ByteInput& x, const ChannelLayout& l,
                       int64_t index, int64_t groups, const Affine& affine, double eps,
                       double out_scale, void* out) {
  const int64_t per_group = l.channels / groups, size = per_group * l.pixels;
  const int64_t first = index % groups * per_group;
  const Statistics s = statistics(run_moments(x, index * size, size), size, x, eps, out_scale);
  const int64_t parts = ceil_div(l.pixels, kRun);
  parallel_for(per_group * parts, size, [&](int64_t task) {
    const int64_t c = first + task / parts, begin = task % parts * kRun;
    affine_plane(AffineKind::kScaleShift, args, x, index * size + task / parts * l.pixels + begin,
                 std::min(kRun, l.pixels - begin), affine.scale(c, s.factor),
                 affine.shift(c, s, out_scale), out);
  });
}

// Some rows of a layer norm; args.in and args.out are those of row 0.
void layer_norm_rows(const AffineArgs& all, const ByteInput& x, int64_t begin, int64_t end,
                     int64_t columns, double eps, double out_scale, const Magnitudes& most) {
  constexpr int64_t kRows = 32;
  const auto fn = fns().affine[static_cast<int>(AffineKind::kNormalize)][x.is_signed];
  while (begin < end) {
    const int64_t rows = std::min(kRows, end - begin);
    Moments moments[kRows];
    for (int64_t r = 0; r < rows; ++r) add_moments(x, (begin + r) * columns, columns, moments[r]);
    float row_scale[kRows], row_shift[kRows], largest = 0.0f;
    for (int64_t r = 0; r < rows; ++r) {
      const Statistics s = statistics(moments[r], columns, x, eps, out_scale);
      row_scale[r] = bounded(s.factor);
      row_shift[r] = bounded(-s.mean * s.factor);
      largest = std::max(largest, 256.0f * row_scale[r] + std::fabs(row_shift[r]));
    }
    AffineArgs args = all;
    args.in = bytes(all.in, begin * columns);
    args.out = bytes(all.out, begin * columns);
    args.rows = rows;
    args.row_scale = row_scale;
    args.row_shift = row_shift;
    args.stays_int32 = most.admit(largest);
    fn(&args);
    begin += rows;
  }
}

}  // namespace

void scale_shift(const ByteInput& x, const ChannelLayout& layout, const double* factor,
                 const double* offset, const ByteOutput& y) {
  const AffineArgs args = affine_args(x, y);
  const double out_scale = static_cast<double>(y.qparams.scale);
  const double ratio = static_cast<double>(x.qparams.scale) / out_scale;
  float* const scale =
      reinterpret_cast<float*>(thread_scratch(layout.channels * 2 * sizeof(float)));
  float* const shift = scale + layout.channels;
  for (int64_t c = 0; c < layout.channels; ++c) {
    const double slope = factor[c] * ratio;
    scale[c] = bounded(slope);
    shift[c] = bounded(offset[c] / out_scale - x.qparams.zero_point * slope);
  }
  affine_channels(AffineKind::kScaleShift, args, x, layout, scale, shift, y.data);
}

void prelu(const ByteInput& x, const ChannelLayout& layout, const float* slope,
           const ByteOutput& y) {
  AffineArgs args = affine_args(x, y);
  const double ratio = static_cast<double>(x.qparams.scale) / static_cast<double>(y.qparams.scale);
  args.center = static_cast<float>(x.qparams.zero_point);
  args.factor = bounded(ratio);
  float* const scale =
      reinterpret_cast<float*>(thread_scratch(layout.channels * 2 * sizeof(float)));
  float* const unused = scale + layout.channels;
  for (int64_t c = 0; c < layout.channels; ++c) {
    scale[c] = bounded(static_cast<double>(slope[c]) * ratio);
    unused[c] = 0.0f;
  }
  affine_channels(AffineKind::kPrelu, args, x, layout, scale, unused, y.data);
}

void layer_norm(const ByteInput& x, int64_t rows, int64_t columns, const float* weight,
                const float* bias, double eps, const ByteOutput& y) {
  constexpr int64_t kBlock = 1 << 15;  // columns whose parameters are kept
  const AffineArgs all = affine_args(x, y);
  if (rows == 0 || columns == 0) return;
  const double out_scale = static_cast<double>(y.qparams.scale);
  const Affine affine{weight, bias};
  for (int64_t first = 0; first < columns; first += kBlock) {
    const int64_t count = std::min(kBlock, columns - first), padded = round_up(count, kAffinePad);
    float* const scale = reinterpret_cast<float*>(call_scratch(padded * 2 * sizeof(float)));
    float* const shift = scale + padded;
    for (int64_t c = 0; c < padded; ++c) {
      scale[c] = c < count ? affine.scale(first + c, 1.0) : 0.0f;
      shift[c] = c < count ? bounded(affine.shift_of(first + c, out_scale)) : 0.0f;
    }
    AffineArgs args = all;
    args.in = bytes(x.data, first);
    args.out = bytes(y.data, first);
    args.columns = count;
    args.in_stride = args.out_stride = columns;
    args.scale = scale;
    args.shift = shift;
    const Magnitudes most = magnitudes(scale, shift, count);
    const int64_t per_task = std::max<int64_t>(1, kChunk / columns);
    parallel_for(ceil_div(rows, per_task), rows * columns, [&](int64_t task) {
      layer_norm_rows(args, x, task * per_task, std::min(rows, (task + 1) * per_task), columns, eps,
                      out_scale, most);
    });
  }
}

void group_norm(const ByteInput& x, const ChannelLayout& layout, int64_t groups,
                const float* weight, const float* bias, double eps, const ByteOutput& y) {
  const AffineArgs args = affine_args(x, y);
  if (groups < 1 || layout.channels % groups) {
    throw std::invalid_argument(std::to_string(groups) + " groups do not divide " +
                                std::to_string(layout.channels) + " channels");
  }
  const int64_t size = layout.batch * layout.channels * layout.pixels;
  if (size == 0) return;
  const double out_scale = static_cast<double>(y.qparams.scale);
  const Affine affine{weight, bias};
  if (layout.channels_last) {
    for_images(layout.batch, size, [&](int64_t image) {
      group_norm_channels_last(args, x, layout, image, groups, affine, eps, out_scale, y.data);
    });
  } else {
    for_images(layout.batch * groups, size, [&](int64_t index) {
      group_norm_planes(args, x, layout, index, groups, affine, eps, out_scale, y.data);
    });
  }
}

void softmax(const ByteInput& x, int64_t rows, int64_t size, const SoftmaxTable& table,
             const ByteOutput& y) {
  check_qparams("input", x.qparams, x.is_signed);
  check_qparams("output", y.qparams, y.is_signed);
  if (rows == 0 || size == 0) return;
  const auto fn = fns().softmax;
  const LookupFn find = active_lookup().run;
  const int64_t per_task = std::max<int64_t>(1, kChunk / size);
  parallel_for(ceil_div(rows, per_task), rows * size * 4, [&](int64_t task) {
    SoftmaxArgs args{};
    args.in = bytes(x.data, task * per_task * size);
    args.out = bytes(y.data, task * per_task * size);
    args.rows = std::min(per_task, rows - task * per_task);
    args.size = size;
    args.in_stride = args.out_stride = size;
    args.exps = table.exps;
    args.high = table.high;
    args.low = table.low;
    args.lookup = find;
    args.inv_scale = 1.0 / static_cast<double>(y.qparams.scale);
    args.in_flip = flip_of(x);
    args.out_zero = y.qparams.zero_point;
    args.out_signed = y.is_signed;
    fn(&args);
  });
}

}  // namespace octavo
