#include "abi/out_kind.h"
#include "bind/bindings.h"
#include "ops/conv.h"
#include "ops/dynamic_linear.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

using Release = py::call_guard<py::gil_scoped_release>;

OutKind out_kind(int code) {
  if (code < 0 || code >= kOutKinds) throw std::invalid_argument("output kind must be 0 .. 5");
  return static_cast<OutKind>(code);
}

WeightParams weight_params(int32_t channels, uintptr_t scales, uintptr_t zeros, uintptr_t bias) {
  WeightParams p;
  const auto* scale = pointer<const float>(scales, channels);
  const auto* zero = pointer<const int32_t>(zeros, channels);
  p.scale.assign(scale, scale + channels);
  p.zero_point.assign(zero, zero + channels);
  if (bias) {
    const auto* values = pointer<const float>(bias, channels);
    p.bias.assign(values, values + channels);
  }
  return p;
}

std::unique_ptr<QuantizedWeight> make_linear(uintptr_t weights, int32_t n, int32_t k,
                                             uintptr_t scales, uintptr_t zeros, uintptr_t bias) {
  return std::make_unique<QuantizedWeight>(pointer<const int8_t>(weights, int64_t{n} * k),
                                           WeightShape{1, n, 1, k},
                                           weight_params(n, scales, zeros, bias), false);
}

void run_linear(const QuantizedWeight& w, uintptr_t x, int64_t rows, int64_t columns,
                ptrdiff_t stride, bool is_signed, float x_scale, int32_t x_zero, int kind,
                float out_scale, int32_t out_zero, bool relu, uintptr_t out) {
  const OutputSpec spec{out_kind(kind), {out_scale, out_zero}, relu};
  const ptrdiff_t out_stride = w.channels() * kind_bytes(spec.kind);
  linear(w, {pointer<const void>(x, rows * columns), rows, columns, stride, is_signed},
         {x_scale, x_zero}, spec, pointer<void>(out, rows * w.channels()), out_stride);
}

void run_dynamic(const QuantizedWeight& w, uintptr_t x, int type, int64_t rows, int64_t columns,
                 ptrdiff_t stride, bool per_tensor, bool reduce_range, bool relu, bool gelu,
                 uintptr_t out) {
  if (type < 0 || type > 2) throw std::invalid_argument("float type must be 0 .. 2");
  const FloatView floats{pointer<const void>(x, rows * columns), static_cast<FloatType>(type), rows,
                         columns, stride};
  dynamic_linear(w, floats, {per_tensor, reduce_range, relu, gelu},
                 pointer<void>(out, rows * w.channels()), w.channels() * (type == 0 ? 4 : 2));
}

std::unique_ptr<ConvWeight> make_conv2d(uintptr_t weights, int32_t out_channels,
                                        int32_t in_per_group, int32_t groups, int32_t kh,
                                        int32_t kw, int32_t stride_h, int32_t stride_w,
                                        int32_t pad_h, int32_t pad_w, int32_t pad_end_h,
                                        int32_t pad_end_w, int32_t dil_h, int32_t dil_w,
                                        uintptr_t scales, uintptr_t zeros, uintptr_t bias) {
  const ConvGeometry g{{1, kh, kw},
                       {1, stride_h, stride_w},
                       {0, pad_h, pad_w},
                       {0, pad_end_h, pad_end_w},
                       {1, dil_h, dil_w}};
  if (groups < 1 || out_channels % groups != 0) {
    throw std::invalid_argument("groups: out_channels must be divisible by it");
  }
  return std::make_unique<ConvWeight>(pointer<const int8_t>(weights, out_channels), groups,
                                      out_channels / groups, in_per_group, g,
                                      weight_params(out_channels, scales, zeros, bias));
}

void run_conv2d(const ConvWeight& w, uintptr_t x, int64_t n, int64_t h, int64_t width, int32_t c,
                ptrdiff_t sn, ptrdiff_t sh, ptrdiff_t sw, bool is_signed, float x_scale,
                int32_t x_zero, int kind, float out_scale, int32_t out_zero, bool relu,
                uintptr_t add, float add_scale, int32_t add_zero, bool add_signed, uintptr_t out) {
  const ImageView image{pointer<const void>(x, n), n, {1, h, width}, c, sn, {0, sh, sw}, is_signed};
  const Residual residual{
      pointer<const void>(add, 0), w.weight().channels(), {add_scale, add_zero}, add_signed};
  conv(w, image, {x_scale, x_zero}, {out_kind(kind), {out_scale, out_zero}, relu}, residual,
       pointer<void>(out, n));
}

}  // namespace

void add_weights(py::module_& m) {
  py::class_<QuantizedWeight>(m, "LinearWeight")
      .def(py::init(&make_linear), Release())
      .def("run", &run_linear, Release())
      .def("run_dynamic", &run_dynamic, Release())
      .def(
          "unpack",
          [](const QuantizedWeight& w, uintptr_t out) { w.unpack(pointer<int8_t>(out, 1)); },
          Release())
      .def("packed_bytes", &QuantizedWeight::packed_bytes);
  py::class_<ConvWeight>(m, "Conv2dWeight")
      .def(py::init(&make_conv2d), Release())
      .def("run", &run_conv2d, Release())
      .def("output_size",
           [](const ConvWeight& w, int64_t h, int64_t width) {
             return py::make_tuple(w.geometry().output_size(1, h),
                                   w.geometry().output_size(2, width));
           })
      .def(
          "unpack",
          [](const ConvWeight& w, uintptr_t out) { w.weight().unpack(pointer<int8_t>(out, 1)); },
          Release())
      .def("packed_bytes", [](const ConvWeight& w) { return w.weight().packed_bytes(); });
}

}  // namespace octavo::bind
