#include "ops/row_runs.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "parallel/parallel.h"

namespace octavo {
namespace {

// sum_k(a - za) of each row, for weights with zero points. `sums` is indexed by the rows' order in
// the runs.
void sum_rows(const GemmCall& call, const RowRun& run, int32_t* sums) {
  for (int32_t r = 0; r < run.rows; ++r) {
    int32_t sum = -call.input_zero * run.taps * run.k;
    for (int32_t t = 0; t < run.taps; ++t) {
      const uint8_t* row = run.a + r * run.a_stride + run.tap[t];
      if (call.a_signed) {
        for (int32_t k = 0; k < run.k; ++k) sum += static_cast<int8_t>(row[k]);
      } else {
        for (int32_t k = 0; k < run.k; ++k) sum += row[k];
      }
    }
    sums[r] = sum;
  }
}

}  // namespace

void check_qparams(const char* what, QParams q, bool is_signed) {
  if (!(q.scale > 0.0f) || !std::isfinite(q.scale)) {
    throw std::invalid_argument(std::string(what) + " scale is " + std::to_string(q.scale) +
                                "; scales must be positive and finite");
  }
  const int32_t lo = is_signed ? -128 : 0;
  if (q.zero_point < lo || q.zero_point > lo + 255) {
    throw std::invalid_argument(std::string(what) + " zero_point is " +
                                std::to_string(q.zero_point) + "; " +
                                (is_signed ? "qint8 needs -128..127" : "quint8 needs 0..255"));
  }
}

void add_residual(Epilogue& epilogue, const Residual& residual, const OutputSpec& output) {
  if (!residual.data) return;
  if (output.kind != OutKind::kU8 && output.kind != OutKind::kS8) {
    throw std::invalid_argument("add: a residual needs a quantized output");
  }
  check_qparams("add", residual.qparams, residual.is_signed);
  epilogue.add = residual.data;
  epilogue.add_stride = residual.stride;
  epilogue.add_scale = residual.qparams.scale / output.out.scale;
  epilogue.add_zero = residual.qparams.zero_point;
  epilogue.add_signed = residual.is_signed;
}

size_t element_size(OutKind kind) { return kind == OutKind::kU8 || kind == OutKind::kS8 ? 1 : 4; }

GemmCall prepare_call(const QuantizedWeight& weight, bool a_signed, QParams input,
                      const OutputSpec& output, int64_t rows, void* out, ptrdiff_t out_stride) {
  check_qparams("input", input, a_signed);
  if (output.kind == OutKind::kU8 || output.kind == OutKind::kS8) {
    check_qparams("output", output.out, output.kind == OutKind::kS8);
  }
  GemmCall call{};
  call.set = &cpu::kernels();
  call.weight = &weight;
  call.packed = &weight.packed(cpu::active_format(*call.set));
  call.kernel =
      cpu::select_gemm(*call.set, call.packed->format(), rows, call.packed->panel_columns(0));
  if (!call.kernel)
    throw std::logic_error("no kernel of the active ISA reads the format that it packs");
  call.params = weight.channel_params(input, output, a_signed ? call.kernel->s8_offset : 0);
  call.epilogue = make_epilogue(weight, *call.params, output);
  call.kind = output.kind;
  call.a_signed = a_signed;
  call.input_zero = input.zero_point;
  call.out = out;
  call.out_stride = out_stride;
  cpu::set_last_kernel(call.kernel->name);
  return call;
}

size_t run_scratch_bytes(const GemmCall& call, int64_t rows) {
  size_t largest = 0;
  for (int i = 0; i < call.set->gemm_count; ++i) {
    largest = std::max<size_t>(largest, call.set->gemm[i].scratch_bytes);
  }
  const size_t sums = call.weight->has_weight_zero_points() ? rows * sizeof(int32_t) : 0;
  return round_up(largest, kAlignment) + round_up(sums, kAlignment);
}

void run_rows(const GemmCall& call, int32_t group, int32_t panel_begin, int32_t panel_end,
              const RowRun* runs, int32_t run_count, uint8_t* scratch) {
  const PackedWeight& packed = *call.packed;
  const size_t kernel_scratch = run_scratch_bytes(call, 0);
  int32_t* sums = reinterpret_cast<int32_t*>(scratch + kernel_scratch);
  const bool zero_points = call.weight->has_weight_zero_points();
  if (zero_points) {
    int32_t* next = sums;
    for (int32_t i = 0; i < run_count; next += runs[i++].rows) sum_rows(call, runs[i], next);
  }
  Epilogue epilogue = call.epilogue;
  if (zero_points) epilogue.w_zero = call.weight->zero_points();

  GemmArgs args{};
  args.epilogue = &epilogue;
  args.scratch = scratch;
  args.out_stride = call.out_stride;
  // Panel by panel, so that a panel that fits the L1 or L2 cache is read from there by every tile
  // of the block.
  for (int32_t p = panel_begin; p < panel_end; ++p) {
    const int32_t n0 = group * packed.shape().n + p * packed.format().nr;
    const int32_t columns = packed.panel_columns(p);
    args.b_stride = packed.panel_stride(p);
    int32_t* run_sums = sums;
    for (int32_t i = 0; i < run_count; run_sums += runs[i++].rows) {
      const RowRun& run = runs[i];
      const GemmKernel* kernel = cpu::select_gemm(*call.set, packed.format(), run.rows, columns);
      const GemmTileFn fn = kernel->fn[call.a_signed][static_cast<int>(call.kind)];
      args.tap = run.tap;
      args.taps = run.taps;
      args.k = run.k;
      args.a_stride = run.a_stride;
      if (zero_points) epilogue.row_sum = run_sums - run.first;
      for (int32_t c = 0; c < columns; c += kernel->nr) {
        args.n = std::min<int32_t>(kernel->nr, columns - c);
        args.n0 = n0 + c;
        args.b = packed.panel(group, p) + c * packed.format().kr;
        for (int32_t r = 0; r < run.rows; r += kernel->mr) {
          args.m = std::min<int32_t>(kernel->mr, run.rows - r);
          args.m0 = static_cast<int32_t>(run.first + r);
          args.a = run.a + r * run.a_stride;
          args.out = static_cast<char*>(call.out) + (run.first + r) * call.out_stride +
                     args.n0 * static_cast<ptrdiff_t>(element_size(call.kind));
          fn(&args);
        }
      }
    }
  }
}

int32_t panels_per_task(int32_t panels, int64_t row_blocks) {
  const int threads = max_threads();
  if (threads <= 1) return panels;
  const int64_t wanted = ceil_div(int64_t{4} * threads, row_blocks);  // tasks along the panels
  return static_cast<int32_t>(std::max<int64_t>(1, panels / wanted));
}

}  // namespace octavo
