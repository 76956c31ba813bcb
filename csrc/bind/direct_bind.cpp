// The direct entry points: quantized layers, quantize and dequantize, from tensors to tensors.
#include <algorithm>
#include <limits>

#include "bind/bindings.h"
#include "bind/direct.h"
#include "ops/conv.h"
#include "ops/dynamic_linear.h"
#include "ops/elementwise.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

// What layers take: input, output scale, output zero point, output dtype, ReLU.
struct LayerArguments {
  QTensorView x;
  OutputObjects objects;
  OutputSpec output;
  ElementType type;

  bool read(PyObject* const* args) {
    objects = {args[1], args[2], args[3]};
    if (!read_output(objects, output.out, type) || type == ElementType::kI32) return false;
    output.kind = type == ElementType::kU8 ? OutKind::kU8 : OutKind::kS8;
    output.relu = args[4] == Py_True;
    return read_qtensor(args[0], x) && x.is_8_bit() && !is_tracing();
  }
};

PyObject* linear_direct(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  const auto& weight = self_of<QuantizedWeight>(self);
  LayerArguments a;
  int64_t count_of_rows;
  ptrdiff_t stride;
  if (count != 5 || !a.read(args) || !as_rows(a.x.ints, weight.shape().k, count_of_rows, stride)) {
    Py_RETURN_NONE;
  }
  const MatrixView rows{a.x.ints.data, count_of_rows, weight.shape().k, stride, a.x.is_signed()};
  TensorView out = a.x.ints;
  out.type = a.type;
  out.size[out.ndim - 1] = weight.channels();
  make_contiguous(out);
  const int64_t cost = rows.rows * weight.shape().elements();
  return or_none(wrap_qtensor(run_into_new(out, cost,
                                           [&](void* to) {
                                             linear(weight, rows, a.x.qparams, a.output, to,
                                                    weight.channels());
                                           }),
                              a.objects));
}

// An (N, C, H, W) tensor whose channels lie together; false for any other.
bool as_image(const TensorView& x, int32_t channels, ImageView& image) {
  if (x.ndim != 4 || x.size[1] != channels || (channels != 1 && x.stride[1] != 1)) return false;
  const int64_t n = x.size[0], h = x.size[2], w = x.size[3];
  // Strides of dimensions with one element mean nothing.
  const ptrdiff_t pixel = w == 1 ? channels : x.stride[3];
  const ptrdiff_t row = h == 1 ? w * pixel : x.stride[2];
  const ptrdiff_t batch = n == 1 ? h * row : x.stride[0];
  image = {x.data, n, {1, h, w}, channels, batch, {0, row, pixel}, x.type == ElementType::kS8};
  return true;
}

// A dense channels-last tensor of these sizes, its memory to be made.
TensorView channels_last(ElementType type, int64_t n, int64_t c, int64_t h, int64_t w) {
  return {nullptr, type, 4, {n, c, h, w}, {h * w * c, 1, w * c, c}};
}

// Arguments 5, if any: a QTensor to add, of the output's sizes.
bool read_residual(PyObject* object, const TensorView& out, Residual& residual) {
  QTensorView add;
  if (!read_qtensor(object, add) || !add.is_8_bit() || !add.ints.is_channels_last() ||
      !std::equal(add.ints.size, add.ints.size + 4, out.size)) {
    return false;
  }
  residual = {add.ints.data, static_cast<ptrdiff_t>(out.size[1]), add.qparams, add.is_signed()};
  return true;
}

PyObject* conv2d_direct(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  const auto& weight = self_of<ConvWeight>(self);
  LayerArguments a;
  ImageView image;
  if (count < 5 || count > 6 || !a.read(args) || !as_image(a.x.ints, weight.in_channels(), image)) {
    Py_RETURN_NONE;
  }
  const ConvGeometry& g = weight.geometry();
  TensorView out = channels_last(a.type, image.batch, weight.weight().channels(),
                                 g.output_size(1, image.size[1]), g.output_size(2, image.size[2]));
  if (out.elements() < 1) Py_RETURN_NONE;
  Residual residual;
  if (count == 6 && !read_residual(args[5], out, residual)) Py_RETURN_NONE;
  const int64_t pixels = out.elements() / out.size[1];
  const int64_t cost = pixels * weight.weight().shape().elements();
  return or_none(wrap_qtensor(
      run_into_new(out, cost,
                   [&](void* to) { conv(weight, image, a.x.qparams, a.output, residual, to); }),
      a.objects));
}

// A float32 tensor without gaps, scale, zero point and dtype.
PyObject* quantize_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 4) Py_RETURN_NONE;
  static constexpr IntRange kRanges[] = {
      {0, 255},
      {-128, 127},
      {std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()}};
  const OutputObjects objects{args[1], args[2], args[3]};
  TensorView x, out;
  QParams qparams;
  if (!read_output(objects, qparams, out.type) || !read_tensor(args[0], x) ||
      x.type != ElementType::kF32 || !(x.is_contiguous() || x.is_channels_last()) || is_tracing()) {
    Py_RETURN_NONE;
  }
  const IntRange range = kRanges[static_cast<int>(out.type)];
  if (qparams.zero_point < range.lo || qparams.zero_point > range.hi) Py_RETURN_NONE;
  const Storage storage = static_cast<Storage>(out.type);
  out = x;
  out.type = static_cast<ElementType>(storage);
  const int64_t size = x.elements();
  return or_none(wrap_qtensor(run_into_new(out, size,
                                           [&](void* to) {
                                             quantize(static_cast<const float*>(x.data), size,
                                                      qparams, range, storage, to);
                                           }),
                              objects));
}

PyObject* dequantize_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  QTensorView q;
  if (count != 1 || !read_qtensor(args[0], q) ||
      !(q.ints.is_contiguous() || q.ints.is_channels_last()) || is_tracing()) {
    Py_RETURN_NONE;
  }
  TensorView out = q.ints;
  out.type = ElementType::kF32;
  const int64_t size = out.elements();
  return or_none(run_into_new(out, size, [&](void* to) {
    dequantize(q.ints.data, size, q.qparams, static_cast<Storage>(q.ints.type),
               static_cast<float*>(to));
  }));
}

// A float32, bfloat16 or float16 tensor, one scale for all of it, 7 bits, ReLU, GELU.
PyObject* dynamic_linear_direct(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  const auto& weight = self_of<QuantizedWeight>(self);
  const int32_t k = weight.shape().k;
  TensorView x;
  int64_t rows;
  ptrdiff_t stride;
  if (count != 5 || !read_tensor(args[0], x) || !is_float(x.type) || !as_rows(x, k, rows, stride) ||
      is_tracing()) {
    Py_RETURN_NONE;
  }
  const auto type =
      static_cast<FloatType>(static_cast<int>(x.type) - static_cast<int>(ElementType::kF32));
  const FloatView floats{x.data, type, rows, k, stride};
  const DynamicSpec spec{args[1] == Py_True, args[2] == Py_True, args[3] == Py_True,
                         args[4] == Py_True};
  TensorView out = x;
  out.size[out.ndim - 1] = weight.channels();
  make_contiguous(out);
  const ptrdiff_t out_stride = weight.channels() * (type == FloatType::kF32 ? 4 : 2);
  return or_none(run_into_new(out, rows * weight.shape().elements(), [&](void* to) {
    dynamic_linear(weight, floats, spec, to, out_stride);
  }));
}

PyMethodDef linear_method = fast_method("run_direct", linear_direct);
PyMethodDef dynamic_linear_method = fast_method("run_dynamic_direct", dynamic_linear_direct);
PyMethodDef conv2d_method = fast_method("run_direct", conv2d_direct);
PyMethodDef quantize_function = fast_method("quantize_direct", quantize_direct);
PyMethodDef dequantize_function = fast_method("dequantize_direct", dequantize_direct);

}  // namespace

void add_direct(py::module_& m) {
  static_assert(static_cast<int>(ElementType::kBF16) - static_cast<int>(ElementType::kF32) ==
                    static_cast<int>(FloatType::kBF16) &&
                static_cast<int>(ElementType::kF16) - static_cast<int>(ElementType::kF32) ==
                    static_cast<int>(FloatType::kF16));
  static_assert(static_cast<int>(Storage::kU8) == static_cast<int>(ElementType::kU8) &&
                static_cast<int>(Storage::kS8) == static_cast<int>(ElementType::kS8) &&
                static_cast<int>(Storage::kI32) == static_cast<int>(ElementType::kI32));
  add_method(py::type::of<QuantizedWeight>(), &linear_method);
  add_method(py::type::of<QuantizedWeight>(), &dynamic_linear_method);
  add_method(py::type::of<ConvWeight>(), &conv2d_method);
  add_function(m, &quantize_function);
  add_function(m, &dequantize_function);
  m.def("connect", [](py::type qtensor, py::object quint8, py::object qint8, py::object qint32,
                      py::object per_tensor_affine) {
    connect_qtensor(std::move(qtensor), std::move(quint8), std::move(qint8), std::move(qint32),
                    std::move(per_tensor_affine));
    connect_torch();
  });
  m.def("tensor_access", [] {
    static constexpr const char* kNames[] = {"none", "attributes", "exchange"};
    return kNames[static_cast<int>(tensor_access())];
  });
  m.def("set_tensor_access", [](const std::string& name) {
    const TensorAccess wanted = name == "none"         ? TensorAccess::kNone
                                : name == "attributes" ? TensorAccess::kAttributes
                                : name == "exchange"   ? TensorAccess::kExchange
                                                       : throw std::invalid_argument(
                                                             "tensor access: none, attributes "
                                                               "or exchange, got " +
                                                             name);
    return set_tensor_access(wanted);
  });
}

}  // namespace octavo::bind
