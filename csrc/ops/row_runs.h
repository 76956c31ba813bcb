// The loop under linear and convolution: runs of output rows times panels of packed weights.
#pragma once

#include "cpu/dispatch.h"
#include "ops/linear.h"

namespace octavo {

// Consecutive output rows whose inputs lie at one stride.
struct RowRun {
  const uint8_t* a;  // row r of tap t: a + r * a_stride + tap[t]
  ptrdiff_t a_stride;
  const ptrdiff_t* tap;
  int32_t taps;
  int32_t k;  // bytes per tap
  int32_t rows;
  int64_t first;  // index of the first output row
  // k groups of the packed weight that come before the run's taps, and behind those others may:
  // what a run leaves out would be multiplied by 0. Not for kernels that prepare rows.
  int32_t skipped_groups = 0;
};

// All that the tasks of one operator call share.
struct GemmCall {
  const KernelSet* set;
  const QuantizedWeight* weight;
  const PackedWeight* packed;
  const GemmKernel* kernel;  // the choice for whole panels; its name is what last_kernel() reports
  ChannelParamsCache::Lease params;
  Epilogue epilogue;
  OutKind kind;
  bool a_signed;
  int32_t input_zero;
  void* out;
  ptrdiff_t out_stride;  // bytes between output rows
};

// `rows` guides the kernel choice. Throws std::invalid_argument for qparams out of range.
GemmCall prepare_call(const QuantizedWeight& weight, bool a_signed, QParams input,
                      const OutputSpec& output, int64_t rows, void* out, ptrdiff_t out_stride);

// Sets the epilogue's residual. Throws std::invalid_argument where the output is not 8-bit.
void add_residual(Epilogue& epilogue, const Residual& residual, const OutputSpec& output);

// Throws std::invalid_argument where a zero point does not fit its type or a scale is not positive
// and finite.
void check_qparams(const char* what, QParams qparams, bool is_signed);

size_t element_size(OutKind kind);

// Scratch that run_rows() needs beside the caller's own, for runs of at most `rows` rows in total,
// and what of it holds rows of A in a kernel's own form.
size_t run_scratch_bytes(const GemmCall& call, int64_t rows);
size_t prepared_bytes(const GemmCall& call, int64_t rows);

// Panels [begin, end), counted from the first panel of `group`. Those past its last are the next
// groups', where those read the same rows of A.
struct PanelRange {
  int32_t group, begin, end;
};

// Qparams of each row, in the runs' order: dynamic quantization.
struct RowParams {
  const float* scale;
  const int32_t* zero_point;
};

// Outputs that do not lie one behind another: a row's channels of group g start at GemmCall::out +
// row.offset + group_offset[g].
struct ScatteredRows {
  struct Row {
    ptrdiff_t offset;
    int64_t even;  // this row and those after it that lie GemmCall::out_stride apart
  };
  const Row* rows;                // in the runs' order
  const ptrdiff_t* group_offset;  // [packed groups]
  uint8_t* tile;                  // tile_bytes() of scratch
};

// Memory for the largest tile of any kernel.
size_t tile_bytes(const GemmCall& call);

// Computes the panels for the runs, whose output rows follow one another, or lie where `scatter`
// says. `row_params` is null where the call's qparams are those of every row. The caller brackets
// it with KernelScope.
void run_rows(const GemmCall& call, const PanelRange& panels, const RowRun* runs, int32_t run_count,
              const RowParams* row_params, uint8_t* scratch,
              const ScatteredRows* scatter = nullptr);

// The kernel set's per-task hooks.
class KernelScope {
 public:
  explicit KernelScope(const KernelSet& set) : set_(set) {
    if (set_.task_begin) set_.task_begin();
  }
  ~KernelScope() {
    if (set_.task_end) set_.task_end();
  }
  KernelScope(const KernelScope&) = delete;
  KernelScope& operator=(const KernelScope&) = delete;

 private:
  const KernelSet& set_;
};

// How many panels of `groups` groups that read the same rows one task takes, so that tasks are
// enough for the threads but no smaller than need be. `cost` as for parallel_for().
int32_t panels_per_task(const PackedWeight& packed, int64_t row_blocks, int64_t cost,
                        int32_t groups = 1);

}  // namespace octavo
