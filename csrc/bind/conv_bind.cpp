// Convolutions of 1 to 3 spatial dimensions: the weight and its calls, by address and from tensors
// to tensors.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>

#include "bind/direct.h"
#include "bind/image_arguments.h"
#include "bind/weight_arguments.h"
#include "ops/channels_last.h"
#include "ops/conv.h"
#include "ops/dynamic_conv.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

// A weight, and how many of its three spatial dimensions (the last ones) its tensors have.
struct RankedConv {
  ConvWeight weight;
  int32_t rank;
};

std::unique_ptr<RankedConv> make_conv(uintptr_t weights, int32_t rank, int32_t out_channels,
                                      int32_t in_per_group, int32_t groups, Spatial kernel,
                                      Spatial stride, Spatial padding, Spatial padding_end,
                                      Spatial dilation, uintptr_t scales, uintptr_t zeros,
                                      uintptr_t bias) {
  if (groups < 1 || out_channels % groups != 0) {
    throw std::invalid_argument("groups: out_channels must be divisible by it");
  }
  const ConvGeometry g{kernel, stride, padding, padding_end, dilation};
  return std::make_unique<RankedConv>(RankedConv{
      ConvWeight(pointer<const int8_t>(weights, out_channels), groups, out_channels / groups,
                 in_per_group, g, weight_params(out_channels, scales, zeros, bias)),
      rank});
}

std::array<int64_t, 3> output_size(const RankedConv& w, const std::array<int64_t, 3>& size) {
  std::array<int64_t, 3> out;
  for (int d = 0; d < 3; ++d) out[d] = w.weight.geometry().output_size(d, size[d]);
  return out;
}

// `x` and `add` are dense and channels last.
void run_conv(const RankedConv& w, uintptr_t x, int64_t batch, const std::array<int64_t, 3>& size,
              bool is_signed, float x_scale, int32_t x_zero, int kind, float out_scale,
              int32_t out_zero, bool relu, float lo, float hi, uintptr_t add, float add_scale,
              int32_t add_zero, bool add_signed, uintptr_t out) {
  const int32_t channels = w.weight.in_channels();
  const ptrdiff_t row = size[2] * channels, plane = size[1] * row;
  const ImageView image{pointer<const void>(x, batch), batch,    size, channels, size[0] * plane,
                        {plane, row, channels},        is_signed};
  const Residual residual{
      pointer<const void>(add, 0), w.weight.weight().channels(), {add_scale, add_zero}, add_signed};
  const OutputSpec output{out_kind(kind), {out_scale, out_zero}, relu, {lo, hi}};
  conv(w.weight, image, {x_scale, x_zero}, output, residual, pointer<void>(out, batch));
}

// `x` is dense.
void run_dynamic(const RankedConv& w, uintptr_t x, int type, int64_t batch,
                 const std::array<int64_t, 3>& size, bool channels_last, bool per_tensor,
                 bool reduce_range, bool relu, uintptr_t out) {
  const FloatImages images{pointer<const void>(x, batch), float_type(type), batch, size,
                           w.weight.in_channels(),        channels_last};
  dynamic_conv(w.weight, images, {per_tensor, reduce_range, relu}, pointer<void>(out, batch));
}

// A QTensor to add, laid out as the output is; `add` is to live as long as `residual` is read.
bool read_residual(PyObject* object, const TensorView& out, int32_t channels, QTensorView& add,
                   Residual& residual) {
  if (!read_qtensor(object, add) || !add.is_8_bit() || !same_layout(add.ints, out)) return false;
  residual = {add.ints.data, channels, add.qparams, add.is_signed()};
  return true;
}

// (lo, hi) as floats.
bool read_clamp(PyObject* object, Clamp& clamp) {
  return PyTuple_CheckExact(object) && PyTuple_GET_SIZE(object) == 2 &&
         read_float(PyTuple_GET_ITEM(object, 0), clamp.lo) &&
         read_float(PyTuple_GET_ITEM(object, 1), clamp.hi);
}

// What layers take, then a QTensor to add and a clamp; both may be missing or None.
PyObject* conv_direct(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  const auto& w = self_of<RankedConv>(self);
  LayerArguments a;
  ImageView image;
  bool planes;
  if (count < 5 || count > 7 || !a.read(args) ||
      !as_image(a.x.ints, w.rank, w.weight.in_channels(), image, planes)) {
    Py_RETURN_NONE;
  }
  const int32_t channels = w.weight.weight().channels();
  TensorView out = channels_last_view(a.type, w.rank, image.batch, a.x.ints.ndim == w.rank + 2,
                                      channels, output_size(w, image.size));
  if (out.elements() < 1) Py_RETURN_NONE;
  QTensorView add;
  Residual residual;
  if (count > 5 && args[5] != Py_None && !read_residual(args[5], out, channels, add, residual)) {
    Py_RETURN_NONE;
  }
  if (count > 6 && args[6] != Py_None && !read_clamp(args[6], a.output.clamp)) Py_RETURN_NONE;
  const int64_t cost = out.elements() / channels * w.weight.weight().shape().elements();
  const auto run = [&](void* to) {
    const LaidOut laid_out(image, planes);
    conv(w.weight, image, a.x.qparams, a.output, residual, to);
  };
  return or_none(wrap_qtensor(run_into_new(out, cost, run), a.objects));
}

// A float32, bfloat16 or float16 tensor, one scale for all of it, 7 bits, ReLU.
PyObject* dynamic_conv_direct(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  const auto& w = self_of<RankedConv>(self);
  TensorView x;
  FloatImages images;
  if (count != 4 || !read_tensor(args[0], x) ||
      !as_float_images(x, w.rank, w.weight.in_channels(), images) || is_tracing()) {
    Py_RETURN_NONE;
  }
  const DynamicSpec spec{args[1] == Py_True, args[2] == Py_True, args[3] == Py_True};
  const int32_t channels = w.weight.weight().channels();
  TensorView out = channels_last_view(x.type, w.rank, images.batch, x.ndim == w.rank + 2, channels,
                                      output_size(w, images.size));
  if (out.elements() < 1) Py_RETURN_NONE;
  const int64_t cost = out.elements() / channels * w.weight.weight().shape().elements();
  return or_none(
      run_into_new(out, cost, [&](void* to) { dynamic_conv(w.weight, images, spec, to); }));
}

PyMethodDef dynamic_conv_method = fast_method("run_dynamic_direct", dynamic_conv_direct);
PyMethodDef conv_method = fast_method("run_direct", conv_direct);

// Dense bytes, [batch][channels][pixels] to [batch][pixels][channels].
void relayout(uintptr_t x, int64_t batch, int32_t channels, int64_t pixels, uintptr_t out) {
  const int64_t elements = batch * channels * pixels;
  to_channels_last(pointer<const void>(x, elements), batch, channels, pixels,
                   pointer<void>(out, elements));
}

}  // namespace

void add_conv(py::module_& m) {
  m.def("to_channels_last", &relayout, LayoutRelease());
  py::class_<RankedConv>(m, "ConvWeight")
      .def(py::init(&make_conv), Release())
      .def("run", &run_conv, Release())
      .def("run_dynamic", &run_dynamic, Release())
      .def("output_size", &output_size)
      .def(
          "unpack",
          [](const RankedConv& w, uintptr_t out) {
            w.weight.weight().unpack(pointer<int8_t>(out, 1));
          },
          Release())
      .def("packed_bytes", [](const RankedConv& w) { return w.weight.weight().packed_bytes(); });
  add_method(py::type::of<RankedConv>(), &conv_method);
  add_method(py::type::of<RankedConv>(), &dynamic_conv_method);
}

}  // namespace octavo::bind
