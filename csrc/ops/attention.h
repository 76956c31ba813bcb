// Scaled dot-product attention on 8-bit tensors.
//
// softmax(scale * q k^T) v, of which every sum is an exact integer. Scores are int32; weights are
// 16-bit integers (abi/attention.h), of which int8 kernels multiply upper and lower bytes with the
// values. So nothing but the exponential and the scaling of the result is rounded, and results
// depend neither on the CPU nor on the number of threads nor on the rest of the batch.
#pragma once

#include "ops/quantized_weight.h"

namespace octavo {

struct AttentionShape {
  int64_t batch, heads, queries, keys;
  int32_t size;        // of queries and keys
  int32_t value_size;  // of values and outputs
};

// Bytes between neighbours; elements of a token lie one behind another.
struct HeadStrides {
  ptrdiff_t batch, head, token;
};

struct HeadInput {
  const void* data;
  HeadStrides strides;
  bool is_signed;
  QParams qparams;
};

struct HeadOutput {
  void* data;
  HeadStrides strides;
  bool is_signed;
  QParams qparams;
};

// The largest size of queries and keys: scores stay less than 2^31 apart.
constexpr int32_t kAttentionSize = 8192;

// Throws std::invalid_argument for qparams out of range, a scale that is not positive or makes
// products that are not finite, more than kAttentionKeys keys or kAttentionSize elements of a
// query. Without keys the result is undefined, so that throws too.
void attention(const AttentionShape& shape, const HeadInput& q, const HeadInput& k,
               const HeadInput& v, float scale, const HeadOutput& out);

}  // namespace octavo
