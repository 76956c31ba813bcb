// Normalizations, PReLU and softmax of 8-bit tensors.
//
// Sums and sums of squares are exact integers. What follows from them and from the parameters is
// computed in float64, each result rounded to float32 once; what happens to an element is
// AffineArgs and SoftmaxArgs. So results depend neither on the CPU nor on the number of threads.
#pragma once

#include "ops/quantized_weight.h"
#include "ops/unary_table.h"

namespace octavo {

// [batch][channels][pixels], or [batch][pixels][channels] where channels_last; dense.
struct ChannelLayout {
  int64_t batch, channels, pixels;
  bool channels_last;
};

struct ByteInput {
  const void* data;
  bool is_signed;
  QParams qparams;
};

struct ByteOutput {
  void* data;
  bool is_signed;
  QParams qparams;
  bool relu;  // at least the zero point
};

// factor[c] * x + offset[c]: batch normalization with known statistics. With r = sx / sy in double,
// the kernel's scale is factor r and its shift offset / sy - zx (factor r).
void scale_shift(const ByteInput& x, const ChannelLayout& layout, const double* factor,
                 const double* offset, const ByteOutput& y);

// x >= 0 ? x : slope[c] * x.
void prelu(const ByteInput& x, const ChannelLayout& layout, const float* slope,
           const ByteOutput& y);

// (x - mean) / sqrt(variance + eps) * weight + bias, the mean and the (biased) variance those of
// each row; weight and bias [columns] or null. With n values of sum S and sum of squares Q, the
// mean is S / n and the variance (n Q - S^2) / n^2 in steps, the numerator exact. A row without
// variance where eps is 0 becomes the bias.
void layer_norm(const ByteInput& x, int64_t rows, int64_t columns, const float* weight,
                const float* bias, double eps, const ByteOutput& y);

// The same with the statistics of each group of neighbouring channels of an image; weight and bias
// [channels] or null. Throws std::invalid_argument where the groups do not divide the channels.
void group_norm(const ByteInput& x, const ChannelLayout& layout, int64_t groups,
                const float* weight, const float* bias, double eps, const ByteOutput& y);

// Along dense rows; the table is softmax_table() of the input's scale.
void softmax(const ByteInput& x, int64_t rows, int64_t size, const SoftmaxTable& table,
             const ByteOutput& y);

}  // namespace octavo
