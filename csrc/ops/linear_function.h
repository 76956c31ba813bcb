// Quantized linear with a function of floats behind it: quantize(f(x . w^T + b)), rounded once.
#pragma once

#include "ops/linear.h"

namespace octavo {

enum class FloatFunction : uint8_t { kLeakyRelu = 0, kTanh = 1 };
constexpr int kFloatFunctions = 2;

// x is [rows, k]; writes rows x n bytes to out, int8 where `out_signed`, rows out_stride bytes
// apart. f is taken of what linear() gives as float32: x where x > 0, else x * slope, in float32;
// or tanh as abi/cell.h has it. The result is rounded as quantize() does it: the same bits on every
// ISA. Throws std::invalid_argument as linear() does, and for a slope that is not finite.
void linear_function(const QuantizedWeight& weight, const MatrixView& x, QParams input,
                     FloatFunction function, float slope, QParams output, bool out_signed,
                     void* out, ptrdiff_t out_stride);

}  // namespace octavo
