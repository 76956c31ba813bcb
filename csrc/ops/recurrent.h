// Dynamic quantized recurrent layers: LSTM, GRU and plain RNN, one layer and direction a call.
#pragma once

#include "ops/dynamic_linear.h"

namespace octavo {

// Weights of a layer for one direction: gates of the input [gates * size, inputs], gates of the
// hidden state [gates * size, outputs], and for an LSTM with projection [outputs, size]; without
// it, outputs = size. Gates are in torch's order: i, f, g, o and r, z, n.
struct RecurrentLayer {
  CellKind kind;
  const QuantizedWeight* input;
  const QuantizedWeight* hidden;
  const QuantizedWeight* project = nullptr;

  int32_t gates() const;
  int32_t size() const { return hidden->channels() / gates(); }
  int32_t outputs() const { return hidden->shape().k; }
};

// Time steps over rows that lie step by step: step t has the rows of the first batch_sizes[t]
// sequences, which do not increase, as torch packs sequences. Null: `batch` rows at each step.
struct Sequences {
  int64_t steps, batch;
  const int64_t* batch_sizes = nullptr;

  int64_t at(int64_t step) const { return batch_sizes ? batch_sizes[step] : batch; }
};

// Before and after: h is [batch][outputs], c (LSTM only) is [batch][size], both dense float32.
struct RecurrentState {
  float *h, *c;
};

// Runs the time steps, from the last to the first where `reverse`, and writes each row's hidden
// state, `out_stride` floats apart; `out` may be null.
//
// For each row: the gates are dynamic_linear(input, x) and dynamic_linear(hidden, h), the cell is
// that of CellArgs, and a projection is dynamic_linear(project) of its h. With spec.per_tensor, x
// has one scale for all steps and h one for each step.
//
// Throws std::invalid_argument for weights, rows or batch sizes that do not fit together.
void recurrent(const RecurrentLayer& layer, const FloatView& x, const Sequences& sequences,
               const DynamicSpec& spec, bool reverse, const RecurrentState& state, float* out,
               ptrdiff_t out_stride);

}  // namespace octavo
