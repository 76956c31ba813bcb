// The direct entry points of look-up tables, normalizations and softmax, from tensors to tensors.
#include "bind/bindings.h"
#include "bind/direct.h"
#include "ops/normalize.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

// An 8-bit QTensor without gaps, and output scale, zero point and dtype, None for that of the
// input.
struct ByteCall {
  QTensorView q;
  OutputObjects objects;
  QParams qparams;
  TensorView out;

  bool read(PyObject* tensor, PyObject* const* output) {
    if (!read_qtensor(tensor, q) || !q.is_8_bit() ||
        !(q.ints.is_contiguous() || q.ints.is_channels_last()) || is_tracing()) {
      return false;
    }
    objects = {output[0], output[1], output[2] == Py_None ? qdtype_of(q.ints.type) : output[2]};
    out = q.ints;
    return read_output(objects, qparams, out.type) && out.type != ElementType::kI32;
  }
  int64_t size() const { return q.ints.elements(); }
  ByteInput input() const { return {q.ints.data, q.is_signed(), q.qparams}; }

  // Calls kernel(output) and returns the new QTensor, or None.
  template <typename Kernel>
  PyObject* run(Kernel kernel, bool relu = false) {
    const auto body = [&](void* to) {
      kernel(ByteOutput{to, out.type == ElementType::kS8, qparams, relu});
    };
    return or_none(wrap_qtensor(run_into_new(out, size(), body), objects));
  }

  // As an image [N, C, *].
  bool as_image(ChannelLayout& layout) const {
    const TensorView& x = q.ints;
    if (x.ndim < 2) return false;
    const int64_t pixels = x.elements() / (x.size[0] * x.size[1]);
    layout = {x.size[0], x.size[1], pixels, pixels == 1 || !x.is_contiguous()};
    return true;
  }
};

// A contiguous float32 tensor of `size` elements, or None, which is null.
bool read_parameter(PyObject* object, int64_t size, const float*& values) {
  values = nullptr;
  if (object == Py_None) return true;
  TensorView view;
  if (!read_tensor(object, view) || view.type != ElementType::kF32 || view.elements() != size ||
      !view.is_contiguous()) {
    return false;
  }
  values = static_cast<const float*>(view.data);
  return true;
}

bool read_double(PyObject* object, double& value) {
  if (!PyFloat_CheckExact(object)) return false;
  value = PyFloat_AS_DOUBLE(object);
  return true;
}

// A contiguous tensor that holds so many bytes.
bool read_table(PyObject* object, ElementType type, int64_t elements, const void*& data) {
  TensorView view;
  if (!read_tensor(object, view) || view.type != type || view.elements() != elements ||
      !view.is_contiguous()) {
    return false;
  }
  data = view.data;
  return true;
}

// QTensor, table of 256 bytes, output.
PyObject* lookup_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  ByteCall call;
  const void* table;
  if (count != 5 || !read_table(args[1], ElementType::kU8, 256, table) ||
      !call.read(args[0], args + 2)) {
    Py_RETURN_NONE;
  }
  return call.run([&](const ByteOutput& y) {
    lookup(static_cast<const uint8_t*>(table), call.q.ints.data, call.size(), y.data);
  });
}

// QTensor, address of float64 factors and offsets, [2][channels], channels, ReLU, output.
PyObject* channel_affine_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  ByteCall call;
  ChannelLayout layout;
  int32_t channels;
  bool relu;
  if (count != 7 || !PyLong_CheckExact(args[1]) || !read_int32(args[2], channels) ||
      !read_bool(args[3], relu) || !call.read(args[0], args + 4) || !call.as_image(layout) ||
      layout.channels != channels) {
    Py_RETURN_NONE;
  }
  const auto* const factor = static_cast<const double*>(PyLong_AsVoidPtr(args[1]));
  if (!factor) {
    PyErr_Clear();
    Py_RETURN_NONE;
  }
  return call.run(
      [&](const ByteOutput& y) { scale_shift(call.input(), layout, factor, factor + channels, y); },
      relu);
}

// QTensor, slopes, output.
PyObject* prelu_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  ByteCall call;
  if (count != 5 || !call.read(args[0], args + 2)) Py_RETURN_NONE;
  ChannelLayout layout{1, 1, call.size(), false};
  const float* slope;
  if (!read_parameter(args[1], 1, slope) &&
      !(call.as_image(layout) && read_parameter(args[1], layout.channels, slope))) {
    Py_RETURN_NONE;
  }
  if (!slope) Py_RETURN_NONE;
  return call.run([&](const ByteOutput& y) { prelu(call.input(), layout, slope, y); });
}

// QTensor, the sizes of the last dimensions, weight, bias, eps, output.
PyObject* layer_norm_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  ByteCall call;
  if (count != 8 || !PyTuple_CheckExact(args[1]) || !call.read(args[0], args + 5) ||
      !call.q.ints.is_contiguous()) {
    Py_RETURN_NONE;
  }
  const TensorView& x = call.q.ints;
  const Py_ssize_t dims = PyTuple_GET_SIZE(args[1]);
  if (dims < 1 || dims > x.ndim) Py_RETURN_NONE;
  int64_t columns = 1;
  for (Py_ssize_t d = 0; d < dims; ++d) {
    int32_t size;
    if (!read_int32(PyTuple_GET_ITEM(args[1], d), size) || size != x.size[x.ndim - dims + d]) {
      Py_RETURN_NONE;
    }
    columns *= size;
  }
  const float *weight, *bias;
  double eps;
  if (!read_parameter(args[2], columns, weight) || !read_parameter(args[3], columns, bias) ||
      !read_double(args[4], eps)) {
    Py_RETURN_NONE;
  }
  return call.run([&](const ByteOutput& y) {
    layer_norm(call.input(), call.size() / columns, columns, weight, bias, eps, y);
  });
}

// QTensor, groups, weight, bias, eps, output.
PyObject* group_norm_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  ByteCall call;
  ChannelLayout layout;
  int32_t groups;
  const float *weight, *bias;
  double eps;
  if (count != 8 || !read_int32(args[1], groups) || !call.read(args[0], args + 5) ||
      !call.as_image(layout) || !read_parameter(args[2], layout.channels, weight) ||
      !read_parameter(args[3], layout.channels, bias) || !read_double(args[4], eps)) {
    Py_RETURN_NONE;
  }
  return call.run(
      [&](const ByteOutput& y) { group_norm(call.input(), layout, groups, weight, bias, eps, y); });
}

// QTensor, the last dimension, SoftmaxTable as int32, output.
PyObject* softmax_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  static_assert(sizeof(SoftmaxTable) % sizeof(int32_t) == 0);
  ByteCall call;
  int32_t dim;
  const void* table;
  if (count != 6 || !read_int32(args[1], dim) ||
      !read_table(args[2], ElementType::kI32, sizeof(SoftmaxTable) / sizeof(int32_t), table) ||
      !call.read(args[0], args + 3) || !call.q.ints.is_contiguous()) {
    Py_RETURN_NONE;
  }
  const TensorView& x = call.q.ints;
  if (dim != -1 && dim != x.ndim - 1) Py_RETURN_NONE;
  const int64_t size = x.size[x.ndim - 1];
  return call.run([&](const ByteOutput& y) {
    softmax(call.input(), call.size() / size, size, *static_cast<const SoftmaxTable*>(table), y);
  });
}

PyMethodDef functions[] = {fast_method("lookup_direct", lookup_direct),
                           fast_method("channel_affine_direct", channel_affine_direct),
                           fast_method("prelu_direct", prelu_direct),
                           fast_method("layer_norm_direct", layer_norm_direct),
                           fast_method("group_norm_direct", group_norm_direct),
                           fast_method("softmax_direct", softmax_direct)};

}  // namespace

void add_direct_normalize(py::module_& m) {
  for (PyMethodDef& function : functions) add_function(m, &function);
}

}  // namespace octavo::bind
