// The direct entry points of linear layers, quantize and dequantize, from tensors to tensors.
#include <limits>

#include "bind/bindings.h"
#include "bind/direct.h"
#include "ops/dynamic_linear.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/linear_function.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

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

// Input, output scale, output zero point, output dtype, False, FloatFunction, slope.
PyObject* linear_function_direct(PyObject* self, PyObject* const* args, Py_ssize_t count) {
  const auto& weight = self_of<QuantizedWeight>(self);
  const int32_t k = weight.shape().k;
  LayerArguments a;
  int64_t rows;
  ptrdiff_t stride;
  int32_t function;
  float slope;
  if (count != 7 || !a.read(args) || a.output.relu || !as_rows(a.x.ints, k, rows, stride) ||
      !read_int32(args[5], function) || function < 0 || function >= kFloatFunctions ||
      !read_float(args[6], slope)) {
    Py_RETURN_NONE;
  }
  const MatrixView x{a.x.ints.data, rows, k, stride, a.x.is_signed()};
  const bool is_signed = a.output.kind == OutKind::kS8;
  TensorView out = a.x.ints;
  out.type = a.type;
  out.size[out.ndim - 1] = weight.channels();
  make_contiguous(out);
  const auto run = [&](void* to) {
    linear_function(weight, x, a.x.qparams, static_cast<FloatFunction>(function), slope,
                    a.output.out, is_signed, to, weight.channels());
  };
  const int64_t cost = rows * weight.shape().elements();
  return or_none(wrap_qtensor(run_into_new(out, cost, run), a.objects));
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
PyMethodDef linear_function_method = fast_method("run_function_direct", linear_function_direct);
PyMethodDef dynamic_linear_method = fast_method("run_dynamic_direct", dynamic_linear_direct);
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
  add_method(py::type::of<QuantizedWeight>(), &linear_function_method);
  add_method(py::type::of<QuantizedWeight>(), &dynamic_linear_method);
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
