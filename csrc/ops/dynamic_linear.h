// Dynamic quantized linear: float in, float out, activations quantized on the way.
#pragma once

#include "ops/quantized_weight.h"

namespace octavo {

enum class FloatType : uint8_t { kF32 = 0, kBF16 = 1, kF16 = 2 };

// Rows of floats in memory that somebody else owns.
struct FloatView {
  const void* data;
  FloatType type;
  int64_t rows;
  int64_t columns;
  ptrdiff_t stride;  // elements between rows; the columns of a row are contiguous
};

struct DynamicSpec {
  bool per_tensor = false;    // one scale for the whole of x instead of one for each row
  bool reduce_range = false;  // 7 bits instead of 8
  bool relu = false;
  bool gelu = false;         // applied before relu
  bool float32_out = false;  // whatever the input's type
};

// Unsigned asymmetric qparams of values that span [lo, hi], zero included: scale = (hi - lo) / 255
// (127 with reduce_range), and the zero point of the end that loses less, as ATen's
// ChooseQuantizationParams does. `limit_scale` keeps the scale from falling below ATen's smallest,
// 6.1e-5. A scale whose reciprocal is not finite becomes 0.1.
QParams choose_qparams(float lo, float hi, bool reduce_range, bool limit_scale);

// y = x . w^T * scales + bias, in x's type unless `float32_out`: x is [rows, k], `out` has rows x n
// elements, rows out_stride bytes apart.
//
// Each row has its own qparams, so that no row changes another; with per_tensor all share those of
// x as a whole, which is what torch.ao's dynamic linear does. A row (with per_tensor: an x) that
// holds a NaN or an infinity gives NaN in all its outputs.
//
// Throws std::invalid_argument for a column count that is not the weight's k.
void dynamic_linear(const QuantizedWeight& weight, const FloatView& x, const DynamicSpec& spec,
                    void* out, ptrdiff_t out_stride);

}  // namespace octavo
