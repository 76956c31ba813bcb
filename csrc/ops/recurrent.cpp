#include "ops/recurrent.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/dispatch.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

// What one unit's cell costs, in the multiply-accumulates of parallel_for().
constexpr int64_t kUnitCost = 256;

// Gates of the input that are computed at once, for several steps, so that their weight passes
// through the caches once for all of them.
constexpr int64_t kGateBytes = 1 << 20;

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

void check_shapes(const RecurrentLayer& layer) {
  const int32_t gates = layer.gates(), size = layer.size();
  if (layer.hidden->channels() != gates * size || layer.input->channels() != gates * size) {
    refuse("weights: both must have " + std::to_string(gates) + " gates of one size, got " +
           std::to_string(layer.input->channels()) + " and " +
           std::to_string(layer.hidden->channels()) + " rows");
  }
  const bool fits = layer.project
                        ? layer.kind == CellKind::kLstm && layer.project->shape().k == size &&
                              layer.project->channels() == layer.outputs()
                        : layer.outputs() == size;
  if (!fits) {
    refuse("weights: the hidden state of " + std::to_string(layer.outputs()) +
           " elements is not what the layer computes");
  }
}

// Rows of all steps.
int64_t count_rows(const Sequences& s) {
  if (!s.batch_sizes) return s.steps * s.batch;
  int64_t rows = 0, before = s.batch;
  for (int64_t t = 0; t < s.steps; ++t) {
    const int64_t size = s.batch_sizes[t];
    if (size < 1 || size > before) {
      refuse("batch_sizes: expected positive numbers up to the batch of " +
             std::to_string(s.batch) + " that do not increase, got " + std::to_string(size) +
             " at step " + std::to_string(t));
    }
    rows += size;
    before = size;
  }
  return rows;
}

// The memory of a call: gates of the input for a block of steps, of the hidden state for one, and
// with a projection what it reads.
class Gates {
 public:
  Gates(const RecurrentLayer& layer, int64_t block_rows, int64_t batch) {
    const int64_t width = int64_t{layer.gates()} * layer.size() * sizeof(float);
    const int64_t input = round_up(block_rows * width, kAlignment);
    const int64_t hidden = round_up(batch * width, kAlignment);
    const int64_t projected =
        layer.project ? batch * layer.size() * static_cast<int64_t>(sizeof(float)) : 0;
    const int64_t bytes = input + hidden + projected;
    uint8_t* memory;
    if (bytes <= 2 * kGateBytes) {
      memory = call_scratch(bytes);
    } else {
      own_ = AlignedBuffer(bytes);
      memory = own_.data();
    }
    this->input = reinterpret_cast<float*>(memory);
    this->hidden = reinterpret_cast<float*>(memory + input);
    unprojected = reinterpret_cast<float*>(memory + input + hidden);
  }
  float *input, *hidden, *unprojected;

 private:
  AlignedBuffer own_;
};

class Run {
 public:
  Run(const RecurrentLayer& layer, const FloatView& x, const DynamicSpec& spec,
      const RecurrentState& state, int64_t block_rows, int64_t batch)
      : layer_(layer),
        x_(x),
        spec_{spec.per_tensor, spec.reduce_range, false, false, true},
        state_(state),
        width_(int64_t{layer.gates()} * layer.size()),
        cell_(cpu::kernels().elementwise.cell[static_cast<int>(layer.kind)]),
        gates_(layer, block_rows, batch) {}

  // The gates that `rows` rows of x from `first` on give.
  void project_input(int64_t first, int64_t rows) {
    FloatView part = x_;
    part.data = static_cast<const char*>(x_.data) +
                first * x_.stride * (x_.type == FloatType::kF32 ? 4 : 2);
    part.rows = rows;
    dynamic_linear(*layer_.input, part, spec_, gates_.input, width_ * sizeof(float));
  }

  // One step of `rows` sequences, whose input gates start at row `row` of the block.
  void step(int64_t row, int64_t rows) {
    const int64_t outputs = layer_.outputs(), size = layer_.size();
    dynamic_linear(*layer_.hidden, {state_.h, FloatType::kF32, rows, outputs, outputs}, spec_,
                   gates_.hidden, width_ * sizeof(float));
    float* const h = layer_.project ? gates_.unprojected : state_.h;
    parallel_for(rows, rows * size * kUnitCost, [&](int64_t r) {
      const CellArgs args{gates_.input + (row + r) * width_, gates_.hidden + r * width_,
                          state_.c ? state_.c + r * size : nullptr, h + r * size,
                          static_cast<int32_t>(size)};
      cell_(&args);
    });
    if (layer_.project) {
      dynamic_linear(*layer_.project, {h, FloatType::kF32, rows, size, size}, spec_, state_.h,
                     outputs * sizeof(float));
    }
  }

 private:
  const RecurrentLayer& layer_;
  const FloatView& x_;
  const DynamicSpec spec_;
  const RecurrentState& state_;
  const int64_t width_;
  const CellFn cell_;
  Gates gates_;
};

}  // namespace

int32_t RecurrentLayer::gates() const {
  return kind == CellKind::kLstm ? 4 : kind == CellKind::kGru ? 3 : 1;
}

void recurrent(const RecurrentLayer& layer, const FloatView& x, const Sequences& sequences,
               const DynamicSpec& spec, bool reverse, const RecurrentState& state, float* out,
               ptrdiff_t out_stride) {
  check_shapes(layer);
  if (layer.kind == CellKind::kLstm && !state.c && sequences.batch) {
    refuse("c: an LSTM needs a cell state");
  }
  const int64_t rows = count_rows(sequences);
  if (rows != x.rows) {
    refuse("input: expected " + std::to_string(rows) + " rows, got " + std::to_string(x.rows));
  }
  if (rows == 0) return;
  const int64_t row_bytes = int64_t{layer.gates()} * layer.size() * sizeof(float);
  const int64_t most = spec.per_tensor ? rows : std::max(sequences.batch, kGateBytes / row_bytes);
  const int64_t block_rows = std::min(rows, most), outputs = layer.outputs();
  Run run(layer, x, spec, state, block_rows, sequences.batch);
  int64_t in_block = 0;                // rows of the block that no step has taken yet
  int64_t block = 0;                   // first row of the block
  int64_t begin = reverse ? rows : 0;  // of the step's rows
  for (int64_t i = 0; i < sequences.steps; ++i) {
    const int64_t t = reverse ? sequences.steps - 1 - i : i, count = sequences.at(t);
    if (reverse) begin -= count;
    if (in_block == 0) {
      // As many whole steps as fit.
      for (int64_t j = i; j < sequences.steps; ++j) {
        const int64_t more = sequences.at(reverse ? sequences.steps - 1 - j : j);
        if (in_block + more > block_rows) break;
        in_block += more;
      }
      block = reverse ? begin + count - in_block : begin;
      run.project_input(block, in_block);
    }
    run.step(begin - block, count);
    in_block -= count;
    for (int64_t r = 0; out && r < count; ++r) {
      std::memcpy(out + (begin + r) * out_stride, state.h + r * outputs, outputs * sizeof(float));
    }
    if (!reverse) begin += count;
  }
}

}  // namespace octavo
