// Quantized convolution on channels-last activations, 1 to 3 spatial dimensions.
#pragma once

#include <array>

#include "ops/linear.h"

namespace octavo {

// Spatial arrays are (depth, height, width); lower ranks have 1s in front.
using Spatial = std::array<int32_t, 3>;

struct ConvGeometry {
  Spatial kernel{1, 1, 1};
  Spatial stride{1, 1, 1};
  Spatial padding{0, 0, 0};  // before the first element
  Spatial padding_end{0, 0,
                      0};  // after the last; differs from padding for "same" with an even kernel
  Spatial dilation{1, 1, 1};

  int32_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  // Output size; <= 0 where the kernel does not fit the padded input.
  int64_t output_size(int dim, int64_t input) const;
};

// 8-bit channels-last image in memory that somebody else owns; the channels of a pixel are
// contiguous.
struct ImageView {
  const void* data;
  int64_t batch;
  std::array<int64_t, 3> size;  // (depth, height, width)
  int32_t channels;
  ptrdiff_t batch_stride;           // bytes
  std::array<ptrdiff_t, 3> stride;  // bytes
  bool is_signed;
};

// A convolution's weight: plain weights are int8 [groups][n][taps][k], taps in (depth, height,
// width) order. Depthwise layers and small groups use the window kernels (ops/window_conv.h).
class ConvWeight {
 public:
  // `groups`, `n` and `k` per group. Throws as QuantizedWeight does, and for kernel, stride or
  // dilation below 1 or padding below 0.
  ConvWeight(const int8_t* weights, int32_t groups, int32_t n, int32_t k,
             const ConvGeometry& geometry, WeightParams params);
  const ConvGeometry& geometry() const { return geometry_; }
  const QuantizedWeight& weight() const { return *weight_; }
  int32_t groups() const { return groups_; }
  int32_t in_channels() const { return groups_ * k_; }

 private:
  int32_t groups_, k_;
  ConvGeometry geometry_;
  std::unique_ptr<QuantizedWeight> weight_;
};

// Writes the dense channels-last output [batch, sizes..., groups * n]. Positions outside the image
// read the input's zero point. The residual is dense channels-last as the output is.
void conv(const ConvWeight& weight, const ImageView& x, QParams input, const OutputSpec& output,
          const Residual& residual, void* out);

}  // namespace octavo
