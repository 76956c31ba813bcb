// Transposed convolutions of 1 to 3 spatial dimensions: the weight and its calls, by address and
// from tensors to tensors.
#include <pybind11/stl.h>

#include "bind/direct.h"
#include "bind/image_arguments.h"
#include "bind/weight_arguments.h"
#include "ops/conv_transpose.h"
#include "ops/dynamic_conv.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

using Size = std::array<int64_t, 3>;

// A weight, how many of its three spatial dimensions (the last ones) its tensors have, and the
// output padding of calls that do not say another.
struct RankedConvTranspose {
  ConvTransposeWeight weight;
  int32_t rank;
  Spatial output_padding;
};

std::unique_ptr<RankedConvTranspose> make(uintptr_t weights, int32_t rank, int32_t in_channels,
                                          int32_t out_per_group, int32_t groups, Spatial kernel,
                                          Spatial stride, Spatial padding, Spatial output_padding,
                                          Spatial dilation, uintptr_t scales, uintptr_t zeros,
                                          uintptr_t bias) {
  if (groups < 1 || in_channels % groups != 0) {
    throw std::invalid_argument("groups: in_channels must be divisible by it");
  }
  const ConvTransposeGeometry g{kernel, stride, padding, dilation};
  return std::make_unique<RankedConvTranspose>(RankedConvTranspose{
      ConvTransposeWeight(pointer<const int8_t>(weights, in_channels), groups, out_per_group,
                          in_channels / groups, g,
                          weight_params(groups * out_per_group, scales, zeros, bias)),
      rank, output_padding});
}

// Without output padding.
Size output_size(const RankedConvTranspose& w, const Size& size) {
  Size out;
  for (int d = 0; d < 3; ++d) out[d] = w.weight.geometry().output_size(d, size[d]);
  return out;
}

// `x` is dense and channels last.
void run(const RankedConvTranspose& w, uintptr_t x, int64_t batch, const Size& size,
         const Spatial& output_padding, bool is_signed, float x_scale, int32_t x_zero, int kind,
         float out_scale, int32_t out_zero, bool relu, uintptr_t out) {
  const int32_t channels = w.weight.in_channels();
  const ptrdiff_t row = size[2] * channels, plane = size[1] * row;
  const ImageView image{pointer<const void>(x, batch), batch,    size, channels, size[0] * plane,
                        {plane, row, channels},        is_signed};
  const OutputSpec output{out_kind(kind), {out_scale, out_zero}, relu};
  conv_transpose(w.weight, image, output_padding, {x_scale, x_zero}, output,
                 pointer<void>(out, batch));
}

// `x` is dense.
void run_dynamic(const RankedConvTranspose& w, uintptr_t x, int type, int64_t batch,
                 const Size& size, bool channels_last, const Spatial& output_padding,
                 bool per_tensor, bool reduce_range, bool relu, uintptr_t out) {
  const FloatImages images{pointer<const void>(x, batch), float_type(type), batch, size,
                           w.weight.in_channels(),        channels_last};
  dynamic_conv_transpose(w.weight, images, output_padding, {per_tensor, reduce_range, relu},
                         pointer<void>(out, batch));
}

// The output's sizes with the weight's own output padding; false where there is no output.
bool padded_output_size(const RankedConvTranspose& w, const Size& in, Size& out) {
  out = output_size(w, in);
  for (int d = 0; d < 3; ++d) {
    out[d] += w.output_padding[d];
    if (out[d] < 1 || in[d] < 1) return false;
  }
  return true;
}

PyObject* direct(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  const auto& w = self_of<RankedConvTranspose>(self);
  LayerArguments a;
  ImageView image;
  bool planes;
  if (count != 5 || !a.read(args) ||
      !as_image(a.x.ints, w.rank, w.weight.in_channels(), image, planes)) {
    Py_RETURN_NONE;
  }
  Size size;
  if (!padded_output_size(w, image.size, size)) Py_RETURN_NONE;
  const int32_t channels = w.weight.out_channels();
  TensorView out =
      channels_last_view(a.type, w.rank, image.batch, a.x.ints.ndim == w.rank + 2, channels, size);
  if (out.elements() < 1) Py_RETURN_NONE;
  const int64_t pixels = image.batch * image.size[0] * image.size[1] * image.size[2];
  const int64_t cost = pixels * w.weight.elements();
  const auto run = [&](void* to) {
    const LaidOut laid_out(image, planes);
    conv_transpose(w.weight, image, w.output_padding, a.x.qparams, a.output, to);
  };
  return or_none(wrap_qtensor(run_into_new(out, cost, run), a.objects));
}

// A float32, bfloat16 or float16 tensor, one scale for all of it, 7 bits, ReLU.
PyObject* dynamic_direct(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  const auto& w = self_of<RankedConvTranspose>(self);
  TensorView x;
  FloatImages images;
  Size size;
  if (count != 4 || !read_tensor(args[0], x) ||
      !as_float_images(x, w.rank, w.weight.in_channels(), images) || is_tracing() ||
      !padded_output_size(w, images.size, size)) {
    Py_RETURN_NONE;
  }
  const DynamicSpec spec{args[1] == Py_True, args[2] == Py_True, args[3] == Py_True};
  TensorView out = channels_last_view(x.type, w.rank, images.batch, x.ndim == w.rank + 2,
                                      w.weight.out_channels(), size);
  const int64_t cost = images.batch * images.pixels() * w.weight.elements();
  return or_none(run_into_new(out, cost, [&](void* to) {
    dynamic_conv_transpose(w.weight, images, w.output_padding, spec, to);
  }));
}

PyMethodDef dynamic_method = fast_method("run_dynamic_direct", dynamic_direct);
PyMethodDef direct_method = fast_method("run_direct", direct);

}  // namespace

void add_conv_transpose(py::module_& m) {
  py::class_<RankedConvTranspose>(m, "ConvTransposeWeight")
      .def(py::init(&make), Release())
      .def("run", &run, Release())
      .def("run_dynamic", &run_dynamic, Release())
      .def("output_size", &output_size)
      .def(
          "unpack",
          [](const RankedConvTranspose& w, uintptr_t out) {
            w.weight.unpack(pointer<int8_t>(out, 1));
          },
          Release())
      .def("packed_bytes", [](const RankedConvTranspose& w) { return w.weight.packed_bytes(); });
  add_method(py::type::of<RankedConvTranspose>(), &direct_method);
  add_method(py::type::of<RankedConvTranspose>(), &dynamic_method);
}

}  // namespace octavo::bind
