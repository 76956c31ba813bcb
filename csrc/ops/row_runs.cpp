#include "ops/row_runs.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "abi/out_kind.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

// sum_k(a - za) of each row, for weights with zero points. `sums` is indexed by the rows' order in
// the runs; `zeros` holds the rows' own zero points, or is null.
void sum_rows(const GemmCall& call, const RowRun& run, const int32_t* zeros, int32_t* sums) {
  for (int32_t r = 0; r < run.rows; ++r) {
    int32_t sum = -(zeros ? zeros[r] : call.input_zero) * run.taps * run.k;
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

void* output_address(const GemmCall& call, int64_t row, int32_t column) {
  return static_cast<char*>(call.out) + row * call.out_stride + column * kind_bytes(call.kind);
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
  epilogue.stays_int32 &= 255.0f * epilogue.add_scale < 0x1p30f;
}

size_t element_size(OutKind kind) { return static_cast<size_t>(kind_bytes(kind)); }

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
  call.params = weight.channel_params(input, output, call.kernel->a_offset[a_signed]);
  call.epilogue = make_epilogue(weight, *call.params, output);
  call.kind = output.kind;
  call.a_signed = a_signed;
  call.input_zero = input.zero_point;
  call.out = out;
  call.out_stride = out_stride;
  cpu::set_last_kernel(call.kernel->name);
  return call;
}

size_t prepared_bytes(const GemmCall& call, int64_t rows) {
  size_t largest = 0;
  const WeightShape& shape = call.weight->shape();
  const int64_t groups = int64_t{shape.taps} * call.packed->padded_k() / call.packed->format().kr;
  for (int i = 0; i < call.set->gemm_count; ++i) {
    const GemmKernel& kernel = call.set->gemm[i];
    if (!kernel.prepare[call.a_signed]) continue;
    largest = std::max(largest, static_cast<size_t>(rows * prepared_row_bytes(kernel, groups)));
  }
  return largest;
}

namespace {

size_t kernel_scratch_bytes(const GemmCall& call) {
  size_t largest = 0;
  for (int i = 0; i < call.set->gemm_count; ++i) {
    largest = std::max<size_t>(largest, call.set->gemm[i].scratch_bytes);
  }
  return round_up(largest, kAlignment);
}

size_t row_sum_bytes(const GemmCall& call, int64_t rows) {
  return call.weight->has_weight_zero_points() ? round_up(rows * sizeof(int32_t), kAlignment) : 0;
}

// A tile's columns: where the panel stands in the packed weight, in the epilogue's arrays and in
// the output.
struct PanelCursor {
  int32_t group, panel;

  PanelCursor(const PackedWeight& packed, const PanelRange& range)
      : group(range.group), panel(range.begin) {
    if (panel >= packed.panels()) {
      group += panel / packed.panels();
      panel %= packed.panels();
    }
  }
  void advance(const PackedWeight& packed) {
    if (++panel < packed.panels()) return;
    panel = 0;
    ++group;
  }
  // First channel of the epilogue's arrays.
  int32_t first_channel(const PackedWeight& packed) const {
    return group * packed.shape().n + panel * packed.format().nr;
  }
};

// Bytes from a row's place to the panel's column `c`.
ptrdiff_t scattered_column(const GemmCall& call, const ScatteredRows& scatter,
                           const PanelCursor& at, int32_t c) {
  const ptrdiff_t in_group = at.panel * call.packed->format().nr + c;
  return scatter.group_offset[at.group] + in_group * kind_bytes(call.kind);
}

// Copies m rows of n bytes to where `rows` says.
template <int kBytes>
void copy_rows(const uint8_t* tile, ptrdiff_t stride, int32_t m, const ScatteredRows::Row* rows,
               char* out) {
  for (int32_t r = 0; r < m; ++r) std::memcpy(out + rows[r].offset, tile + r * stride, kBytes);
}

void copy_rows(const uint8_t* tile, ptrdiff_t stride, int32_t m, size_t bytes,
               const ScatteredRows::Row* rows, char* out) {
  switch (bytes) {
    case 16:
      return copy_rows<16>(tile, stride, m, rows, out);
    case 32:
      return copy_rows<32>(tile, stride, m, rows, out);
    case 64:
      return copy_rows<64>(tile, stride, m, rows, out);
    default:
      for (int32_t r = 0; r < m; ++r) std::memcpy(out + rows[r].offset, tile + r * stride, bytes);
  }
}

// One tile, or the part of it before its rows' spacing changes, at `column` bytes behind the rows'
// places; returns how many rows that were. Where too few rows lie evenly for the kernel to run
// well, it writes them side by side and they are copied.
int32_t run_scattered_tile(const GemmCall& call, const GemmKernel& kernel,
                           const ScatteredRows& scatter, int64_t row, ptrdiff_t column,
                           GemmArgs& args) {
  const ScatteredRows::Row* rows = scatter.rows + row;
  char* out = static_cast<char*>(call.out) + column;
  if (rows->even < args.m) {
    const int64_t whole_steps = rows->even / kernel.m_step * kernel.m_step;
    if (2 * whole_steps < args.m) {
      args.out = scatter.tile;
      args.out_stride = kernel.nr * kind_bytes(call.kind);
      kernel.fn[call.a_signed](&args);
      copy_rows(scatter.tile, args.out_stride, args.m, size_t(args.n) * kind_bytes(call.kind), rows,
                out);
      return args.m;
    }
    args.m = static_cast<int32_t>(whole_steps);
  }
  args.out = out + rows->offset;
  args.out_stride = call.out_stride;
  kernel.fn[call.a_signed](&args);
  return args.m;
}

// One run against the panels, by kernels that read A in place. `rows_before`: rows of the runs
// before it.
void run_tiles(const GemmCall& call, const RowRun& run, const PanelRange& panels, GemmArgs args,
               const ScatteredRows* scatter, int64_t rows_before) {
  const PackedWeight& packed = *call.packed;
  args.tap = run.tap;
  args.taps = run.taps;
  args.k = run.k;
  args.a_stride = run.a_stride;
  PanelCursor at(packed, panels);
  // Panel by panel, so that a panel that fits the L1 or L2 cache is read from there by every tile
  // of the block.
  for (int32_t p = panels.begin; p < panels.end; ++p, at.advance(packed)) {
    const int32_t columns = packed.panel_columns(at.panel);
    const GemmKernel* kernel = cpu::select_gemm(*call.set, packed.format(), run.rows, columns);
    const GemmFn fn = kernel->fn[call.a_signed];
    args.b_stride = packed.panel_stride(at.panel);
    for (int32_t c = 0; c < columns; c += kernel->nr) {
      args.n = std::min<int32_t>(kernel->nr, columns - c);
      args.n0 = at.first_channel(packed) + c;
      args.b = packed.panel(at.group, at.panel) + c * packed.format().kr +
               run.skipped_groups * args.b_stride;
      const ptrdiff_t column = scatter ? scattered_column(call, *scatter, at, c) : 0;
      for (int32_t r = 0; r < run.rows;) {
        args.m = std::min<int32_t>(kernel->mr, run.rows - r);
        args.m0 = static_cast<int32_t>(run.first + r);
        args.a = run.a + r * run.a_stride;
        if (scatter) {
          r += run_scattered_tile(call, *kernel, *scatter, rows_before + r, column, args);
          continue;
        }
        args.out = output_address(call, run.first + r, args.n0);
        fn(&args);
        r += kernel->mr;
      }
    }
  }
}

// All runs against the panels, by a kernel that reads A in its own form: prepared once, one row
// behind another whatever run it came from, then read for every panel.
void run_prepared(const GemmCall& call, const GemmKernel& kernel, const RowRun* runs,
                  int32_t run_count, const PanelRange& panels, GemmArgs args,
                  const ScatteredRows* scatter) {
  const PackedWeight& packed = *call.packed;
  const int64_t groups = int64_t{packed.shape().taps} * packed.padded_k() / packed.format().kr;
  uint8_t* prepared = args.prepared;
  args.prepared_stride = prepared_row_bytes(kernel, groups);
  int32_t rows = 0;
  for (int32_t i = 0; i < run_count; rows += runs[i++].rows) {
    args.tap = runs[i].tap;
    args.taps = runs[i].taps;
    args.k = runs[i].k;
    args.a = runs[i].a;
    args.a_stride = runs[i].a_stride;
    args.m = runs[i].rows;
    args.prepared = prepared + rows * args.prepared_stride;
    kernel.prepare[call.a_signed](&args);
  }
  PanelCursor at(packed, panels);
  for (int32_t p = panels.begin; p < panels.end; ++p, at.advance(packed)) {
    const int32_t columns = packed.panel_columns(at.panel);
    args.b_stride = packed.panel_stride(at.panel);
    for (int32_t c = 0; c < columns; c += kernel.nr) {
      args.n = std::min<int32_t>(kernel.nr, columns - c);
      args.n0 = at.first_channel(packed) + c;
      args.b = packed.panel(at.group, at.panel) + c * packed.format().kr;
      const ptrdiff_t column = scatter ? scattered_column(call, *scatter, at, c) : 0;
      for (int32_t r = 0; r < rows;) {
        args.m = std::min<int32_t>(kernel.mr, rows - r);
        args.m0 = static_cast<int32_t>(runs[0].first + r);
        args.prepared = prepared + r * args.prepared_stride;
        if (scatter) {
          r += run_scattered_tile(call, kernel, *scatter, r, column, args);
          continue;
        }
        args.out = output_address(call, runs[0].first + r, args.n0);
        kernel.fn[call.a_signed](&args);
        r += kernel.mr;
      }
    }
  }
}

}  // namespace

size_t tile_bytes(const GemmCall& call) {
  size_t largest = 0;
  for (int i = 0; i < call.set->gemm_count; ++i) {
    const GemmKernel& kernel = call.set->gemm[i];
    largest = std::max<size_t>(largest, size_t{kernel.mr} * kernel.nr);
  }
  return round_up(largest * kind_bytes(call.kind), kAlignment);
}

size_t run_scratch_bytes(const GemmCall& call, int64_t rows) {
  return kernel_scratch_bytes(call) + row_sum_bytes(call, rows) +
         round_up(prepared_bytes(call, rows), kAlignment);
}

void run_rows(const GemmCall& call, const PanelRange& panels, const RowRun* runs, int32_t run_count,
              const RowParams* row_params, uint8_t* scratch, const ScatteredRows* scatter) {
  if (run_count == 0) return;
  int32_t rows = 0;
  for (int32_t i = 0; i < run_count; ++i) rows += runs[i].rows;
  Epilogue epilogue = call.epilogue;
  GemmArgs args{};
  args.kind = call.kind;
  args.epilogue = &epilogue;
  args.out_stride = call.out_stride;
  args.scratch = scratch;
  scratch += kernel_scratch_bytes(call);
  if (call.weight->has_weight_zero_points()) {
    int32_t* sums = reinterpret_cast<int32_t*>(scratch);
    epilogue.w_zero = call.weight->zero_points();
    epilogue.row_sum = sums - runs[0].first;
    for (int32_t i = 0; i < run_count; sums += runs[i++].rows) {
      const int32_t* zeros =
          row_params ? row_params->zero_point + (runs[i].first - runs[0].first) : nullptr;
      sum_rows(call, runs[i], zeros, sums);
    }
    scratch += row_sum_bytes(call, rows);
  }
  if (row_params) {
    epilogue.row_scale = row_params->scale - runs[0].first;
    epilogue.row_zero = row_params->zero_point - runs[0].first;
  }
  args.prepared = scratch;
  const GemmKernel* kernel = cpu::select_gemm(
      *call.set, call.packed->format(), rows,
      // Of two panels that follow one another one is as wide as any.
      call.packed->panel_columns(
          panels.end - panels.begin > 1 ? 0 : panels.begin % call.packed->panels()));
  if (kernel->prepare[call.a_signed]) {
    run_prepared(call, *kernel, runs, run_count, panels, args, scatter);
  } else {
    for (int32_t i = 0; i < run_count; ++i)
      run_tiles(call, runs[i], panels, args, scatter, runs[i].first - runs[0].first);
  }
}

int32_t panels_per_task(const PackedWeight& packed, int64_t row_blocks, int64_t cost,
                        int32_t groups) {
  const int32_t panels = packed.panels() * groups;
  if (cost <= kSerialGrain) return panels;
  const int threads = max_threads();
  if (threads <= 1) return panels;
  const int64_t wanted = ceil_div(int64_t{4} * threads, row_blocks);  // tasks along the panels
  // Tasks side by side meet at the ends of cache lines, even where outputs are bytes.
  const int64_t line = ceil_div(kAlignment, packed.format().nr);
  return static_cast<int32_t>(round_up(std::max<int64_t>(1, panels / wanted), line));
}

}  // namespace octavo
