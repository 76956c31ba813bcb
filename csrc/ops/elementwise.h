// Element-wise operators on dense 8-bit storage, threaded over chunks.
#pragma once

#include "ops/quantized_weight.h"

namespace octavo {

// Integer storage types that QTensor has.
enum class Storage : uint8_t { kU8 = 0, kS8 = 1, kI32 = 2 };

struct IntRange {
  int32_t lo, hi;
};

// q = clamp(zero_point + rne(x / scale)); the reciprocal is taken in float32. NaN becomes the zero
// point.
void quantize(const float* x, int64_t size, QParams qparams, IntRange range, Storage storage,
              void* q);
// x viewed as [outer][channels][inner], with a scale and zero point for each channel.
void quantize_per_channel(const float* x, int64_t outer, int64_t channels, int64_t inner,
                          const float* scales, const int32_t* zero_points, IntRange range,
                          Storage storage, void* q);
void dequantize(const void* q, int64_t size, QParams qparams, Storage storage, float* x);
void dequantize_per_channel(const void* q, int64_t outer, int64_t channels, int64_t inner,
                            const float* scales, const int32_t* zero_points, Storage storage,
                            float* x);

// 8-bit only from here on. `range` is in absolute quantized values.
void requantize(const void* q, int64_t size, QParams input, bool input_signed, QParams output,
                bool output_signed, IntRange range, void* out);
void add(const void* a, QParams a_params, const void* b, QParams b_params, int64_t size,
         bool is_signed, QParams output, bool relu, void* out);
void mul(const void* a, QParams a_params, const void* b, QParams b_params, int64_t size,
         bool is_signed, QParams output, bool relu, void* out);
void clamp(const void* q, int64_t size, bool is_signed, IntRange range, void* out);

}  // namespace octavo
