// Convolutions through the ISA's window kernels: depthwise, and groups too small for GEMM tiles.
#pragma once

#include "ops/image_walk.h"

namespace octavo {

// Whether a layer of `groups` with n outputs and k inputs each goes to the window kernels. Weights
// with zero points go to the GEMM kernels, which know how to correct for them.
bool takes_window_kernels(int32_t groups, int32_t n, int32_t k, const WeightParams& params);

// conv() for a weight that has_window_form().
void window_conv(const ConvWeight& weight, const WindowWalk& walk, const ImageView& x,
                 QParams input, const OutputSpec& output, const Residual& residual, void* out);

}  // namespace octavo
