// Concatenation of 8-bit tensors along one dimension, in the output's qparams.
#pragma once

#include "ops/quantized_weight.h"

namespace octavo {

// One tensor: `row_bytes` bytes at each multiple of `stride`. Along the channels of a channels-last
// image a row is a pixel; along the first dimension the whole tensor is one row.
struct CatPart {
  const void* data;
  int64_t row_bytes;
  ptrdiff_t stride;
  QParams qparams;
};

// The rows of all parts, side by side; each requantized where its qparams are not the output's. Row
// r is written at out + r * out_stride and is as long as the parts' together; bytes between rows
// stay. A part whose producer wrote it where it belongs in `out`, with the output's qparams, is
// left as it is; other parts must not overlap the output.
//
// Throws std::invalid_argument for qparams out of range.
void cat(const CatPart* parts, int64_t count, int64_t rows, bool is_signed, QParams output,
         void* out, ptrdiff_t out_stride);

}  // namespace octavo
