// Convolutions through the ISA's window kernels: depthwise, and groups too small for GEMM tiles;
// the phases of such transposed ones, too.
#pragma once

#include "ops/image_walk.h"

namespace octavo {

// Whether a layer of `groups` with n outputs and k inputs each goes to the window kernels. Weights
// with zero points go to the GEMM kernels, which know how to correct for them.
bool takes_window_kernels(int32_t groups, int32_t n, int32_t k, const WeightParams& params);

// Where output pixels lie: those of a dense image, or every so many of one.
struct OutputPlaces {
  void* data;
  ptrdiff_t batch_stride;           // bytes
  std::array<ptrdiff_t, 3> stride;  // bytes
};

// The outputs of `walk` by a weight that has_window_form(); a residual is dense.
void window_conv(const QuantizedWeight& weight, const ConvGeometry& geometry,
                 const WindowWalk& walk, const ImageView& x, QParams input,
                 const OutputSpec& output, const Residual& residual, const OutputPlaces& out);

}  // namespace octavo
