// Pooling, upsampling and concatenation.
#include <pybind11/stl.h>

#include "bind/bindings.h"
#include "bind/clock.h"
#include "ops/cat.h"
#include "ops/pooling.h"
#include "ops/upsample.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

using Sizes = std::array<int64_t, 3>;

// A channels-last image: address, [batch, depth, height, width, channels], and the strides of the
// first four in bytes.
ImageView image(uintptr_t data, const std::array<int64_t, 5>& size,
                const std::array<int64_t, 4>& stride, bool is_signed) {
  return {pointer<const void>(data, size[0] * size[1] * size[2] * size[3] * size[4]),
          size[0],
          {size[1], size[2], size[3]},
          static_cast<int32_t>(size[4]),
          stride[0],
          {stride[1], stride[2], stride[3]},
          is_signed};
}

}  // namespace

void add_images(py::module_& m) {
  m.def(
      "max_pool",
      [](uintptr_t x, const std::array<int64_t, 5>& size, const std::array<int64_t, 4>& stride,
         bool is_signed, const Spatial& kernel, const Spatial& step, const Spatial& padding,
         const Spatial& dilation, bool ceil_mode, uintptr_t out) {
        const PoolGeometry g{kernel, step, padding, dilation, ceil_mode};
        max_pool(image(x, size, stride, is_signed), g, pointer<void>(out, size[0]));
      },
      Release());
  m.def(
      "avg_pool",
      [](uintptr_t x, const std::array<int64_t, 5>& size, const std::array<int64_t, 4>& stride,
         bool is_signed, int32_t zero, const Spatial& kernel, const Spatial& step,
         const Spatial& padding, bool ceil_mode, bool count_include_pad, int32_t divisor,
         uintptr_t out) {
        const PoolGeometry g{kernel, step, padding, {1, 1, 1}, ceil_mode};
        avg_pool(image(x, size, stride, is_signed), zero, g, {count_include_pad, divisor},
                 pointer<void>(out, size[0]));
      },
      Release());
  m.def(
      "adaptive_max_pool",
      [](uintptr_t x, const std::array<int64_t, 5>& size, const std::array<int64_t, 4>& stride,
         bool is_signed, const Sizes& to, uintptr_t out) {
        adaptive_max_pool(image(x, size, stride, is_signed), to,
                          pointer<void>(out, size[0] * to[0] * to[1] * to[2] * size[4]));
      },
      Release());
  m.def(
      "adaptive_avg_pool",
      [](uintptr_t x, const std::array<int64_t, 5>& size, const std::array<int64_t, 4>& stride,
         bool is_signed, int32_t zero, const Sizes& to, uintptr_t out) {
        adaptive_avg_pool(image(x, size, stride, is_signed), zero, to,
                          pointer<void>(out, size[0] * to[0] * to[1] * to[2] * size[4]));
      },
      Release());
  m.def("pool_output_size", [](int64_t input, int32_t kernel, int32_t stride, int32_t pad,
                               int32_t dilation, bool ceil) {
    return PoolGeometry{{1, 1, kernel}, {1, 1, stride}, {0, 0, pad}, {1, 1, dilation}, ceil}
        .output_size(2, input);
  });
  m.def(
      "upsample_nearest",
      [](uintptr_t x, const std::array<int64_t, 5>& size, const std::array<int64_t, 4>& stride,
         bool is_signed, const Sizes& to, const std::array<double, 3>& scale, bool exact,
         uintptr_t out) {
        upsample_nearest(image(x, size, stride, is_signed), {to, scale}, exact,
                         pointer<void>(out, size[0] * to[0] * to[1] * to[2] * size[4]));
      },
      Release());
  m.def(
      "upsample_linear",
      [](uintptr_t x, const std::array<int64_t, 5>& size, const std::array<int64_t, 4>& stride,
         bool is_signed, int32_t zero, const Sizes& to, const std::array<double, 3>& scale,
         bool align_corners, uintptr_t out) {
        upsample_linear(image(x, size, stride, is_signed), zero, {to, scale}, align_corners,
                        pointer<void>(out, size[0] * to[0] * to[1] * to[2] * size[4]));
      },
      Release());
  // A part is (address, bytes of a row, stride of rows in bytes, scale, zero point).
  m.def(
      "cat",
      [](const std::vector<std::tuple<uintptr_t, int64_t, int64_t, float, int32_t>>& tensors,
         int64_t rows, bool is_signed, float scale, int32_t zero, uintptr_t out,
         int64_t out_stride) {
        std::vector<CatPart> parts;
        parts.reserve(tensors.size());
        for (const auto& [data, bytes, stride, part_scale, part_zero] : tensors) {
          parts.push_back(
              {pointer<const void>(data, rows * bytes), bytes, stride, {part_scale, part_zero}});
        }
        cat(parts.data(), static_cast<int64_t>(parts.size()), rows, is_signed, {scale, zero},
            pointer<void>(out, rows * out_stride), out_stride);
      },
      Release());
}

}  // namespace octavo::bind
