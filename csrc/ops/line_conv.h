// Dense convolutions of few channels through the ISA's line kernel.
#pragma once

#include "ops/image_walk.h"
#include "ops/row_runs.h"

namespace octavo {

// Whether the active ISA's line kernel takes a layer of one group, whose call this is, and gains by
// it.
bool takes_line_kernel(const GemmCall& call, const ConvGeometry& geometry, const WindowWalk& walk);

// Computes the call. Its epilogue is complete.
void line_conv(const GemmCall& call, const ConvGeometry& geometry, const WindowWalk& walk,
               const ImageView& x);

}  // namespace octavo
