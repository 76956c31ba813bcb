// Float images to channels-last bytes.
#pragma once

#include "abi/kernel_abi.h"
#include "ops/dynamic_conv.h"

namespace octavo {

// How values become bytes: q = clamp(zero_point + rne(x * inverse), 0, hi).
struct ByteQuantizer {
  float inverse;
  int32_t zero_point, hi;
};

// The range of images [first, first + count) with 0; NaN where one of their values is NaN.
FloatRange range_of_images(const FloatImages& x, int64_t first, int64_t count,
                           const ElementwiseFns& fns);

// Writes image `index` to `to`, [sizes...][channels]. Planes are transposed on the way, in tiles
// that stay in the L1 cache.
void quantize_image(const FloatImages& x, int64_t index, const ByteQuantizer& how,
                    const ElementwiseFns& fns, uint8_t* to);

}  // namespace octavo
