// Nearest and linear interpolation of channels-last 8-bit images. Scale and zero point stay those
// of the input.
#pragma once

#include "ops/conv.h"

namespace octavo {

// How far apart the samples are along a dimension, as torch computes it in float32.
struct ResizeGeometry {
  std::array<int64_t, 3> size{1, 1, 1};  // of the output
  // The scale factor that a user gave, which counts before the ratio of the sizes; 0: none.
  std::array<double, 3> scale{0, 0, 0};
};

// Copies input pixel min(floor(i * s), in - 1), s = 1 / scale or in / out; `exact` takes samples at
// the centres: floor(max((i + 0.5) * s - 0.5, 0) + 0.5). Writes the dense channels-last output.
void upsample_nearest(const ImageView& x, const ResizeGeometry& geometry, bool exact, void* out);

// A weighted mean of 2, 4 or 8 pixels. The samples lie at
//   p = max((i + 0.5) * s - 0.5, 0), or with `align_corners` at i * (in - 1) / (out - 1);
// the second pixel of a dimension has the weight w = rne((p - floor(p)) * 2^14), or 0 where there
// is none, and the first 2^14 - w. Weights of several dimensions are multiplied in the order depth,
// height, width, each product v becoming b = (v * w + 2^13) >> 14 for the second pixel and v - b
// for the first. Then
//   out = zp + rne(sum(b * (q - zp)) / 2^14),
// the sum exact. That is within 0.51 of the value between the steps.
void upsample_linear(const ImageView& x, int32_t zero_point, const ResizeGeometry& geometry,
                     bool align_corners, void* out);

}  // namespace octavo
