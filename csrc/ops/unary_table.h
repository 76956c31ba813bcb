// Unary functions of 8-bit tensors: a table of 256 results, and its look-up.
//
// Entry q is quantize(float32(f(dequantize(q)))), f in float64. f uses nothing but addition,
// multiplication, division, rounding and comparison in a fixed order, no library function whose
// last bit could differ, so a table is the same on every CPU.
#pragma once

#include <string_view>

#include "ops/quantized_weight.h"

namespace octavo {

// Writes the table of a function, indexed by bytes as they are stored. Names: celu(alpha),
// elu(alpha, scale, input_scale), gelu, gelu_tanh, hardsigmoid, hardswish, leaky_relu(slope), mish,
// sigmoid, silu, tanh, threshold(threshold, value). Throws std::invalid_argument for other names
// and for qparams out of range.
void unary_table(std::string_view name, const double (&parameters)[3], QParams input,
                 bool input_signed, QParams output, bool output_signed, uint8_t* table);

// exps[d] = rne(exp(-scale * d) * 2^30), the table of softmax().
void softmax_exps(float scale, int32_t* exps);

// out[i] = table[in[i]] of bytes; in place too.
void lookup(const uint8_t* table, const void* in, int64_t size, void* out);

}  // namespace octavo
