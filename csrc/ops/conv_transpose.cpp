#include "ops/conv_transpose.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "ops/conv_run.h"
#include "ops/window_conv.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

// The dense output.
struct OutputImage {
  char* data;
  std::array<int64_t, 3> size;
  int64_t pixel;  // bytes

  int64_t row() const { return size[2] * pixel; }
  int64_t plane() const { return size[1] * row(); }
  int64_t image() const { return size[0] * plane(); }
  ptrdiff_t offset(int64_t d, int64_t h, int64_t w) const {
    return d * plane() + h * row() + w * pixel;
  }
};

// Outputs of a phase along each dimension.
std::array<int64_t, 3> phase_size(const Spatial& first, const Spatial& stride,
                                  const OutputImage& image) {
  std::array<int64_t, 3> size;
  for (int d = 0; d < 3; ++d)
    size[d] = image.size[d] <= first[d] ? 0 : ceil_div(image.size[d] - first[d], stride[d]);
  return size;
}

// Phases [begin, end) of a set, all of one size.
void convolve_phases(const ConvTransposeWeight& weight, const PhaseSet& set, int32_t begin,
                     int32_t end, const ImageView& x, QParams input, const OutputSpec& output,
                     const OutputImage& image) {
  const Spatial& stride = weight.geometry().stride;
  const WindowWalk walk(x, set.window, phase_size(set.phases[begin], stride, image));
  const GemmCall call = prepare_call(*set.weight, x.is_signed, input, output, walk.pixels(),
                                     image.data, stride[2] * image.pixel);
  if (walk.pixels() == 0) return;
  const int32_t groups = weight.packed_groups(), phases = static_cast<int32_t>(set.phases.size());
  const int64_t group_bytes = image.pixel / groups;
  const size_t run_bytes = round_up(ConvRun::shared_bytes(set.window), alignof(ptrdiff_t));
  uint8_t* shared = call_scratch(run_bytes + groups * phases * sizeof(ptrdiff_t));
  auto* group_offset = reinterpret_cast<ptrdiff_t*>(shared + run_bytes);
  for (int32_t i = 0; i < groups * phases; ++i) {
    const Spatial& first = set.phases[i % phases];
    group_offset[i] = image.offset(first[0], first[1], first[2]) + i / phases * group_bytes;
  }
  const ScatteredOutput scattered{
      phases,
      image.image(),
      {stride[0] * image.plane(), stride[1] * image.row(), stride[2] * image.pixel},
      group_offset};
  const ConvRun run(call, walk, x, set.window, groups, shared, &scattered);
  const int32_t panels = call.packed->panels() * (end - begin);
  const int64_t cost = walk.pixels() * set.weight->shape().elements() / phases * (end - begin);
  const int32_t panel_block =
      panels_per_task(*call.packed, run.blocks() * groups, cost, end - begin);
  const int64_t panel_blocks = ceil_div(panels, panel_block);
  parallel_for(run.blocks() * groups * panel_blocks, cost, [&](int64_t task) {
    const int32_t p0 = static_cast<int32_t>(task % panel_blocks) * panel_block;
    const int32_t group = static_cast<int32_t>(task / panel_blocks % groups) * phases + begin;
    run(task / panel_blocks / groups, {group, p0, std::min(p0 + panel_block, panels)});
  });
}

// The one phase of a set whose weight has_window_form().
void convolve_windows(const ConvTransposeWeight& weight, const PhaseSet& set, const ImageView& x,
                      QParams input, const OutputSpec& output, const OutputImage& image) {
  const Spatial &stride = weight.geometry().stride, &first = set.phases[0];
  const WindowWalk walk(x, set.window, phase_size(first, stride, image));
  char* out = image.data + image.offset(first[0], first[1], first[2]);
  window_conv(*set.weight, set.window, walk, x, input, output, {},
              {out,
               image.image(),
               {stride[0] * image.plane(), stride[1] * image.row(), stride[2] * image.pixel}});
}

// Phases that lie side by side and are of one size go together: unless the output is padded, all of
// a set.
void convolve_set(const ConvTransposeWeight& weight, const PhaseSet& set, const ImageView& x,
                  QParams input, const OutputSpec& output, const OutputImage& image) {
  if (set.weight->has_window_form()) return convolve_windows(weight, set, x, input, output, image);
  const Spatial& stride = weight.geometry().stride;
  const int32_t phases = static_cast<int32_t>(set.phases.size());
  for (int32_t begin = 0; begin < phases;) {
    const auto size = phase_size(set.phases[begin], stride, image);
    int32_t end = begin + 1;
    while (end < phases && phase_size(set.phases[end], stride, image) == size) ++end;
    convolve_phases(weight, set, begin, end, x, input, output, image);
    begin = end;
  }
}

// The pixels that no tap meets, which all hold the same.
void fill_unmet(const ConvTransposeWeight& weight, int64_t batch, QParams input, bool is_signed,
                const OutputSpec& output, const OutputImage& image) {
  const int32_t groups = weight.bias_only()->shape().groups;
  uint8_t* zeros = call_scratch(round_up(groups, kAlignment) + image.pixel);
  uint8_t* pixel = zeros + round_up(groups, kAlignment);
  std::memset(zeros, input.zero_point, groups);
  gemm(*weight.bias_only(), {zeros, 1, groups, groups, is_signed}, input, output, Residual{}, pixel,
       image.pixel);
  const int64_t lines = batch * image.size[0] * image.size[1];
  parallel_for(lines, lines * image.row(), [&](int64_t line) {
    const bool met = weight.is_met(0, line / image.size[1] % image.size[0]) &&
                     weight.is_met(1, line % image.size[1]);
    char* to = image.data + line * image.row();
    for (int64_t w = 0; w < image.size[2]; ++w, to += image.pixel) {
      if (!met || !weight.is_met(2, w)) std::memcpy(to, pixel, image.pixel);
    }
  });
}

}  // namespace

void conv_transpose(const ConvTransposeWeight& weight, const ImageView& x,
                    const Spatial& output_padding, QParams input, const OutputSpec& output,
                    void* out) {
  if (x.channels != weight.in_channels()) {
    throw std::invalid_argument("input: expected " + std::to_string(weight.in_channels()) +
                                " channels, got " + std::to_string(x.channels));
  }
  OutputImage image{static_cast<char*>(out), {}, 0};
  image.pixel = weight.out_channels() * static_cast<int64_t>(element_size(output.kind));
  int64_t pixels = x.batch;
  for (int d = 0; d < 3; ++d) {
    if (output_padding[d] < 0) {
      throw std::invalid_argument("output_padding: must be at least 0, got " +
                                  std::to_string(output_padding[d]));
    }
    const int64_t size = weight.geometry().output_size(d, x.size[d]) + output_padding[d];
    image.size[d] = std::max<int64_t>(0, size);
    pixels *= image.size[d];
  }
  if (pixels > std::numeric_limits<int32_t>::max()) {
    throw std::invalid_argument("input: more than 2^31 - 1 output pixels in one call");
  }
  for (const PhaseSet& set : weight.phase_sets())
    convolve_set(weight, set, x, input, output, image);
  if (weight.bias_only() && pixels > 0)
    fill_unmet(weight, x.batch, input, x.is_signed, output, image);
}

}  // namespace octavo
