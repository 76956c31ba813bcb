// Unary functions of 8-bit tensors: a table of 256 results, and its look-up.
//
// Entry q is quantize(float32(f(dequantize(q)))), f in float64. f uses nothing but addition,
// multiplication, division, rounding and comparison in a fixed order, no library function whose
// last bit could differ, so a table is the same on every CPU.
#pragma once

#include <array>
#include <string_view>

#include "abi/kernel_abi.h"
#include "ops/quantized_weight.h"

namespace octavo {

// Writes the table of a function, indexed by bytes as they are stored. Names: celu(alpha),
// elu(alpha, scale, input_scale), gelu, gelu_tanh, hardsigmoid, hardswish, leaky_relu(slope), mish,
// sigmoid, silu, tanh, threshold(threshold, value). Throws std::invalid_argument for other names
// and for qparams out of range.
void unary_table(std::string_view name, const double (&parameters)[3], QParams input,
                 bool input_signed, QParams output, bool output_signed, uint8_t* table);

// exp(-scale * d) for distances d from the largest input of a softmax, in units of about 2^-30:
// exps[d] = rne(high[d / 16] * low[d % 16]) in float32, where high[j] = exp(-16 scale j) (2^30 -
// 64) and low[i] = exp(-scale i). Vector code looks the factors up, which are few.
struct SoftmaxTable {
  float high[16], low[16];
  int32_t exps[256];
};
void softmax_table(float scale, SoftmaxTable& table);

// The active ISA's look-up, and from how many bytes on a table of 256 results, computed for them,
// is faster than computing each (CPUs without quick permutations: never).
struct Lookup {
  LookupFn run;
  int64_t worth;
};
Lookup active_lookup();

// All bytes in order: what a kernel is given to make a table of its results.
constexpr std::array<uint8_t, 256> kAllBytes = [] {
  std::array<uint8_t, 256> all{};
  for (int i = 0; i < 256; ++i) all[i] = static_cast<uint8_t>(i);
  return all;
}();

// out[i] = table[in[i]] of bytes; in place too.
void lookup(const uint8_t* table, const void* in, int64_t size, void* out);

}  // namespace octavo
