// Pooling on channels-last 8-bit images. Scale and zero point stay those of the input.
#pragma once

#include "ops/conv.h"

namespace octavo {

struct PoolGeometry {
  Spatial kernel{1, 1, 1};
  Spatial stride{1, 1, 1};
  Spatial padding{0, 0, 0};
  Spatial dilation{1, 1, 1};
  bool ceil_mode = false;

  // As torch computes it: the last window starts inside the image or its left padding.
  int64_t output_size(int dim, int64_t input) const;
};

struct AveragePoolOptions {
  bool count_include_pad = true;
  int32_t divisor_override = 0;  // 0: the window's size
};

// Writes the dense channels-last output. Padding never wins a maximum.
void max_pool(const ImageView& x, const PoolGeometry& geometry, void* out);
// zp + rne(sum(q - zp) * (1 / divisor)): padding counts as the zero point.
void avg_pool(const ImageView& x, int32_t zero_point, const PoolGeometry& geometry,
              const AveragePoolOptions& options, void* out);
// Window i of a dimension covers [floor(i * in / out), ceil((i + 1) * in / out)).
void adaptive_max_pool(const ImageView& x, const std::array<int64_t, 3>& output_size, void* out);
void adaptive_avg_pool(const ImageView& x, int32_t zero_point,
                       const std::array<int64_t, 3>& output_size, void* out);

}  // namespace octavo
