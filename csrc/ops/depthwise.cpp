#include <algorithm>
#include <cstring>

#include "ops/image_walk.h"
#include "ops/row_runs.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

// Output pixels that one kernel call covers.
constexpr int64_t kPixelsPerCall = 16;
constexpr int64_t kPixelsPerTask = 64;

}  // namespace

void depthwise_conv(const QuantizedWeight& weight, const WindowWalk& walk, const ImageView& x,
                    QParams input, const OutputSpec& output, const Residual& residual, void* out) {
  check_qparams("input", input, x.is_signed);
  if (element_size(output.kind) == 1)
    check_qparams("output", output.out, output.kind == OutKind::kS8);
  const KernelSet& set = cpu::kernels();
  const DepthwiseKernel& kernel = *set.depthwise;
  const auto params = weight.channel_params(input, output, x.is_signed ? kernel.s8_offset : 0);
  Epilogue epilogue = make_epilogue(weight, *params, output);
  add_residual(epilogue, residual, output);
  cpu::set_last_kernel(kernel.name);
  if (walk.pixels() == 0) return;

  const int32_t taps = weight.shape().taps, channels = weight.channels();
  const ptrdiff_t out_stride = channels * static_cast<ptrdiff_t>(element_size(output.kind));
  uint8_t* padding = call_scratch(channels);
  std::memset(padding, input.zero_point, channels);
  const DepthwiseFn fn = kernel.fn[x.is_signed];
  const int64_t cost = walk.pixels() * channels * taps;
  parallel_for(ceil_div(walk.pixels(), kPixelsPerTask), cost, [&](int64_t task) {
    const int64_t end = std::min((task + 1) * kPixelsPerTask, walk.pixels());
    auto** rows =
        reinterpret_cast<const uint8_t**>(thread_scratch(kPixelsPerCall * taps * sizeof(void*)));
    for (int64_t p = task * kPixelsPerTask; p < end; p += kPixelsPerCall) {
      DepthwiseArgs args{};
      args.pixels = static_cast<int32_t>(std::min(kPixelsPerCall, end - p));
      for (int32_t i = 0; i < args.pixels; ++i) {
        walk.for_each_input(walk.pixel(p + i), [&](int t, const uint8_t* address) {
          rows[int64_t{i} * taps + t] = address ? address : padding;
        });
      }
      args.rows = rows;
      args.taps = taps;
      args.channels = channels;
      args.w = weight.depthwise().data();
      args.out = static_cast<char*>(out) + p * out_stride;
      args.out_stride = out_stride;
      args.kind = output.kind;
      args.epilogue = &epilogue;
      args.m0 = static_cast<int32_t>(p);
      fn(&args);
    }
  });
}

}  // namespace octavo
