#include "ops/upsample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/dispatch.h"
#include "ops/copy_short.h"
#include "ops/row_runs.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

// Output pixels of a row that a task computes at once.
constexpr int64_t kBlock = 512;
// Output rows of a task: those that repeat the one before are copied from it.
constexpr int64_t kRows = 8;

using Size3 = std::array<int64_t, 3>;

// Distance of the samples along a dimension, in input pixels.
float sample_distance(const ResizeGeometry& g, int dim, int64_t input) {
  if (g.scale[dim] > 0.0) return static_cast<float>(1.0 / g.scale[dim]);
  return static_cast<float>(input) / static_cast<float>(g.size[dim]);
}

float centre(float distance, int64_t out) {
  const float at = distance * (static_cast<float>(out) + 0.5f) - 0.5f;
  return at > 0.0f ? at : 0.0f;
}

// One output coordinate's two input coordinates, and the weight of the second.
struct Sample {
  int64_t first, second;
  int32_t weight;
};

class NearestSamples {
 public:
  NearestSamples(const ImageView& x, const ResizeGeometry& g, bool exact)
      : input_(x.size), exact_(exact) {
    for (int d = 0; d < 3; ++d) distance_[d] = sample_distance(g, d, x.size[d]);
  }
  Sample at(int dim, int64_t out) const {
    const float p =
        exact_ ? centre(distance_[dim], out) + 0.5f : static_cast<float>(out) * distance_[dim];
    const int64_t first = std::min(static_cast<int64_t>(std::floor(p)), input_[dim] - 1);
    return {first, first, 0};
  }

 private:
  Size3 input_;
  bool exact_;
  float distance_[3];
};

class LinearSamples {
 public:
  LinearSamples(const ImageView& x, const ResizeGeometry& g, bool align_corners)
      : input_(x.size), align_corners_(align_corners) {
    for (int d = 0; d < 3; ++d) {
      if (!align_corners) {
        distance_[d] = sample_distance(g, d, x.size[d]);
      } else {
        distance_[d] = g.size[d] > 1
                           ? static_cast<float>(x.size[d] - 1) / static_cast<float>(g.size[d] - 1)
                           : 0.0f;
      }
    }
  }
  Sample at(int dim, int64_t out) const {
    const float p =
        align_corners_ ? static_cast<float>(out) * distance_[dim] : centre(distance_[dim], out);
    const int64_t first = std::min(static_cast<int64_t>(p), input_[dim] - 1);
    if (first + 1 == input_[dim]) return {first, first, 0};
    const float fraction = std::clamp(p - static_cast<float>(first), 0.0f, 1.0f);
    const float weight = fraction * static_cast<float>(kInterpolationOne);
    return {first, first + 1, static_cast<int32_t>(std::nearbyint(weight))};
  }

 private:
  Size3 input_;
  bool align_corners_;
  float distance_[3];
};

// The second one's share of `weight`; neither is negative.
int32_t split(int32_t weight, int32_t second) {
  return (weight * second + kInterpolationOne / 2) >> 14;
}

// A block of output pixels of a few rows, and the input columns that these read.
struct Block {
  const uint8_t* image;
  uint8_t* out;        // the block's first pixel in row 0 of the plane
  int64_t d;           // plane
  int64_t begin, end;  // rows
  int64_t pixels;
  ptrdiff_t *first, *second;  // [pixels] byte offsets in a row
  int32_t* weight;            // [pixels] of the second
  int32_t* weights;           // [pixels][4] for the kernel
};

// Calls body(block) for all blocks of the output, in parallel.
template <typename Samples, typename Body>
void for_blocks(const ImageView& x, const ResizeGeometry& g, const Samples& samples, void* out,
                Body body) {
  const Size3& size = g.size;
  const int64_t planes = x.batch * size[0], across = ceil_div(size[2], kBlock);
  if (planes == 0 || size[1] == 0 || across == 0 || x.channels == 0) return;
  const int64_t wanted = max_threads() > 1 ? 4 * int64_t{max_threads()} : 1;
  const int64_t step = std::clamp<int64_t>(ceil_div(planes * across * size[1], wanted), 1, kRows);
  const int64_t down = ceil_div(size[1], step);
  const int64_t bytes = planes * size[1] * size[2] * x.channels;
  parallel_for(planes * down * across, 2 * bytes, [&](int64_t task) {
    constexpr size_t kOffsets = kBlock * sizeof(ptrdiff_t), kInts = kBlock * sizeof(int32_t);
    uint8_t* scratch = thread_scratch(2 * kOffsets + 5 * kInts);
    const int64_t plane = task / across / down, begin = task / across % down * step;
    const int64_t column = task % across * kBlock;
    Block block;
    block.image = static_cast<const uint8_t*>(x.data) + plane / size[0] * x.batch_stride;
    block.out = static_cast<uint8_t*>(out) + (plane * size[1] * size[2] + column) * x.channels;
    block.d = plane % size[0];
    block.begin = begin;
    block.end = std::min(begin + step, size[1]);
    block.pixels = std::min(kBlock, size[2] - column);
    block.first = reinterpret_cast<ptrdiff_t*>(scratch);
    block.second = reinterpret_cast<ptrdiff_t*>(scratch + kOffsets);
    block.weight = reinterpret_cast<int32_t*>(scratch + 2 * kOffsets);
    block.weights = reinterpret_cast<int32_t*>(scratch + 2 * kOffsets + kInts);
    for (int64_t i = 0; i < block.pixels; ++i) {
      const Sample s = samples.at(2, column + i);
      block.first[i] = s.first * x.stride[2];
      block.second[i] = s.second * x.stride[2];
      block.weight[i] = s.weight;
    }
    body(block);
  });
}

void copy_pixels(const uint8_t* row, const Block& block, int64_t channels, uint8_t* out) {
  for (int64_t i = 0; i < block.pixels; ++i) {
    copy_short(row + block.first[i], channels, out + i * channels);
  }
}

// The rows that output row (d, h) lies between, with the weight of each: along a dimension of one
// pixel there is nothing to interpolate.
struct Rows {
  const void* address[4];
  int32_t weight[4];
  int32_t count = 0;
};

Rows input_rows(const ImageView& x, const Block& block, const Sample& d, const Sample& h) {
  Rows rows;
  const auto down = [&](int64_t depth, int32_t weight) {
    const uint8_t* plane = block.image + depth * x.stride[0];
    const auto add = [&](int64_t height, int32_t share) {
      rows.address[rows.count] = plane + height * x.stride[1];
      rows.weight[rows.count++] = share;
    };
    if (x.size[1] == 1) return add(h.first, weight);
    const int32_t second = split(weight, h.weight);
    add(h.first, weight - second);
    add(h.second, second);
  };
  if (x.size[0] == 1) {
    down(d.first, kInterpolationOne);
  } else {
    down(d.first, kInterpolationOne - d.weight);
    down(d.second, d.weight);
  }
  return rows;
}

// Fills block.weights for these rows; returns all of them or-ed.
int32_t column_weights(const Rows& rows, const Block& block) {
  int32_t bits = 0;
  for (int r = 0; r < rows.count; ++r) {
    const int32_t weight = rows.weight[r];
    int32_t* to = block.weights + r;
    for (int64_t i = 0; i < block.pixels; ++i, to += rows.count) {
      const int32_t second = split(weight, block.weight[i]);
      *to = (weight - second) + second * 65536;
      bits |= *to;
    }
  }
  return bits;
}

}  // namespace

void upsample_nearest(const ImageView& x, const ResizeGeometry& g, bool exact, void* out) {
  const NearestSamples samples(x, g, exact);
  const ptrdiff_t row_bytes = g.size[2] * x.channels;
  for_blocks(x, g, samples, out, [&](const Block& block) {
    const uint8_t* plane = block.image + samples.at(0, block.d).first * x.stride[0];
    int64_t before = -1;
    for (int64_t h = block.begin; h < block.end; ++h) {
      const int64_t from = samples.at(1, h).first;
      uint8_t* to = block.out + h * row_bytes;
      if (from == before) {
        std::memcpy(to, to - row_bytes, block.pixels * x.channels);
      } else {
        copy_pixels(plane + from * x.stride[1], block, x.channels, to);
      }
      before = from;
    }
  });
}

void upsample_linear(const ImageView& x, int32_t zero_point, const ResizeGeometry& g,
                     bool align_corners, void* out) {
  const auto fn = cpu::kernels().elementwise.interpolate[x.is_signed];
  const LinearSamples samples(x, g, align_corners);
  for_blocks(x, g, samples, out, [&](const Block& block) {
    const Sample d = samples.at(0, block.d);
    for (int64_t h = block.begin; h < block.end; ++h) {
      const Rows rows = input_rows(x, block, d, samples.at(1, h));
      InterpolateArgs args{};
      args.weight_bits = column_weights(rows, block);
      args.rows = rows.address;
      args.row_count = rows.count;
      args.left = block.first;
      args.right = block.second;
      args.weights = block.weights;
      args.pixels = block.pixels;
      args.channels = x.channels;
      args.out = block.out + h * g.size[2] * x.channels;
      args.out_stride = x.channels;
      args.zero_point = zero_point;
      fn(&args);
    }
  });
}

}  // namespace octavo
