// Pieces that the dynamic reference layers share. Float types are those of ref::Dynamic.
#pragma once

#include <vector>

#include "ref/reference.h"

namespace octavo::ref {

std::vector<float> to_floats(const void* x, int64_t size, int type);
void store_float(float y, int64_t i, int type, void* out);

// Qparams of what is quantized together; the scale is NaN where the values are not all finite.
Affine qparams_of(const float* x, int64_t size, const Dynamic& how);

}  // namespace octavo::ref
