#include <algorithm>
#include <cmath>

#include "ref/reference.h"

namespace octavo::ref {
namespace {

// zp + rne(sum / 2^14) of an exact sum of weights times steps.
int32_t weighted_mean(int64_t sum, int32_t zero_point) {
  return zero_point + static_cast<int32_t>(std::nearbyint(static_cast<double>(sum) / 16384.0));
}

float distance(const Resize& resize, int dim, int64_t input) {
  if (resize.scale[dim] > 0) return static_cast<float>(1.0 / resize.scale[dim]);
  return static_cast<float>(input) / static_cast<float>(resize.size[dim]);
}

// Where output `i` lies between the centres of the input pixels.
float centre(float step, int64_t i) {
  const float scaled = step * (static_cast<float>(i) + 0.5f);
  return std::max(scaled - 0.5f, 0.0f);
}

// Output positions in order: visit(element of channel 0, batch, position).
template <typename Visit>
void for_each_output(const Image& x, const Resize& resize, Visit visit) {
  int64_t pixel = 0;
  for (int64_t b = 0; b < x.batch; ++b) {
    for (int64_t d = 0; d < resize.size[0]; ++d) {
      for (int64_t h = 0; h < resize.size[1]; ++h) {
        for (int64_t w = 0; w < resize.size[2]; ++w, ++pixel) {
          visit(pixel * x.channels, b, std::array<int64_t, 3>{d, h, w});
        }
      }
    }
  }
}

struct Neighbours {
  int64_t at[2];
  int64_t weight[2];  // of 2^14
};

Neighbours neighbours(const Image& x, const Resize& resize, bool align_corners, int dim,
                      int64_t i) {
  const int64_t last = x.size[dim] - 1;
  float p = centre(distance(resize, dim, x.size[dim]), i);
  if (align_corners) {
    const int64_t gaps = resize.size[dim] - 1;
    const float step = gaps > 0 ? static_cast<float>(last) / static_cast<float>(gaps) : 0.0f;
    p = step * static_cast<float>(i);
  }
  const int64_t first = std::min(static_cast<int64_t>(p), last);
  if (first == last) return {{last, last}, {16384, 0}};
  const float fraction = std::min(std::max(p - static_cast<float>(first), 0.0f), 1.0f);
  const int64_t weight = static_cast<int64_t>(std::nearbyint(fraction * 16384.0f));
  return {{first, first + 1}, {16384 - weight, weight}};
}

// The share of one of two neighbours in `whole`.
int64_t share(int64_t whole, const Neighbours& n, int which) {
  const int64_t second = (whole * n.weight[1] + 8192) >> 14;
  return which ? second : whole - second;
}

}  // namespace

void interpolate_kernel(const InterpolateArgs& args, bool is_signed) {
  for (int64_t i = 0; i < args.pixels; ++i) {
    for (int32_t c = 0; c < args.channels; ++c) {
      int64_t sum = 0;
      for (int32_t r = 0; r < args.row_count; ++r) {
        const Bytes row{args.rows[r], is_signed};
        const int32_t weights = args.weights[i * args.row_count + r];
        sum += int64_t{weights % 65536} * (row.at(args.left[i] + c) - args.zero_point);
        sum += int64_t{weights / 65536} * (row.at(args.right[i] + c) - args.zero_point);
      }
      store_byte(args.out, i * args.out_stride + c, is_signed, weighted_mean(sum, args.zero_point));
    }
  }
}

void upsample_nearest(const Image& x, const Resize& resize, bool exact, void* out) {
  for_each_output(x, resize, [&](int64_t to, int64_t b, const std::array<int64_t, 3>& at) {
    int64_t from[3];
    for (int d = 0; d < 3; ++d) {
      const float step = distance(resize, d, x.size[d]);
      const float p = exact ? centre(step, at[d]) + 0.5f : step * static_cast<float>(at[d]);
      from[d] = std::min(static_cast<int64_t>(std::floor(p)), x.size[d] - 1);
    }
    for (int32_t c = 0; c < x.channels; ++c) {
      const int64_t element = x.index(b, from[0], from[1], from[2]) + c;
      store_byte(out, to + c, x.bytes.is_signed, x.bytes.at(element));
    }
  });
}

void upsample_linear(const Image& x, int32_t zero_point, const Resize& resize, bool align_corners,
                     void* out) {
  for_each_output(x, resize, [&](int64_t to, int64_t b, const std::array<int64_t, 3>& at) {
    Neighbours n[3];
    for (int d = 0; d < 3; ++d) n[d] = neighbours(x, resize, align_corners, d, at[d]);
    for (int32_t c = 0; c < x.channels; ++c) {
      int64_t sum = 0;
      for (int corner = 0; corner < 8; ++corner) {
        const int i = corner >> 2 & 1, j = corner >> 1 & 1, k = corner & 1;
        const int64_t weight = share(share(share(16384, n[0], i), n[1], j), n[2], k);
        const int64_t element = x.index(b, n[0].at[i], n[1].at[j], n[2].at[k]) + c;
        sum += weight * (x.bytes.at(element) - zero_point);
      }
      store_byte(out, to + c, x.bytes.is_signed, weighted_mean(sum, zero_point));
    }
  });
}

}  // namespace octavo::ref
