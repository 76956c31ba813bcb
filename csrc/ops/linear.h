// Quantized linear: y = x . w^T, requantized.
#pragma once

#include "ops/quantized_weight.h"

namespace octavo {

// 8-bit rows in memory that somebody else owns.
struct MatrixView {
  const void* data;
  int64_t rows;
  int64_t columns;
  ptrdiff_t stride;  // bytes between rows; the columns of a row are contiguous
  bool is_signed;
};

// Added to an integer output before its clamp: 8-bit, with the output's shape; data null: none.
struct Residual {
  const void* data = nullptr;
  ptrdiff_t stride = 0;  // bytes between rows
  QParams qparams;
  bool is_signed = false;
};

// What linear and 1x1 convolutions share: x is [rows, groups * k], group g of the output reads
// columns from g * k.
void gemm(const QuantizedWeight& weight, const MatrixView& x, QParams input,
          const OutputSpec& output, const Residual& residual, void* out, ptrdiff_t out_stride);

// x is [rows, k]; writes rows x n elements of output.kind to out, rows out_stride bytes apart.
// Throws std::invalid_argument for a column count that is not the weight's k, or qparams out of
// range.
void linear(const QuantizedWeight& weight, const MatrixView& x, QParams input,
            const OutputSpec& output, void* out, ptrdiff_t out_stride);

}  // namespace octavo
