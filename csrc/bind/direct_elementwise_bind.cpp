// The direct entry points of clamps, sums, products and concatenation, from tensors to tensors.
#include <algorithm>
#include <array>

#include "bind/bindings.h"
#include "bind/direct.h"
#include "ops/cat.h"
#include "ops/elementwise.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

constexpr Py_ssize_t kMaxParts = 16;

bool is_dense(const TensorView& view) { return view.is_contiguous() || view.is_channels_last(); }

// An 8-bit QTensor without gaps, lower and upper bound.
PyObject* clamp_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  QTensorView q;
  IntRange range;
  if (count != 3 || !read_qtensor(args[0], q) || !q.is_8_bit() || !is_dense(q.ints) ||
      !read_int32(args[1], range.lo) || !read_int32(args[2], range.hi) || range.lo > range.hi ||
      is_tracing()) {
    Py_RETURN_NONE;
  }
  const int32_t least = q.is_signed() ? -128 : 0;
  range = {std::clamp(range.lo, least, least + 255), std::clamp(range.hi, least, least + 255)};
  TensorView out = q.ints;
  const int64_t size = out.elements();
  const auto run = [&](void* to) { clamp(q.ints.data, size, q.is_signed(), range, to); };
  return or_none(wrap_qtensor(run_into_new(out, size, run), q.objects()));
}

// Output scale, zero point and dtype; None for the dtype takes that of the inputs.
bool read_result(PyObject* const* args, const QTensorView& input, OutputObjects& objects,
                 QParams& qparams) {
  objects = {args[0], args[1], args[2] == Py_None ? qdtype_of(input.ints.type) : args[2]};
  ElementType type;
  return read_output(objects, qparams, type) && type == input.ints.type;
}

using Binary = void (*)(const void*, QParams, const void*, QParams, int64_t, bool, QParams, bool,
                        void*);

// Two 8-bit QTensors of one dtype, shape and layout, output scale, zero point and dtype, ReLU.
template <Binary kRun>
PyObject* binary_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  QTensorView a, b;
  OutputObjects objects;
  QParams qparams;
  bool relu;
  if (count != 6 || !read_qtensor(args[0], a) || !read_qtensor(args[1], b) || !a.is_8_bit() ||
      a.ints.type != b.ints.type || !same_shape(a.ints, b.ints) || !is_dense(a.ints) ||
      !same_strides(a.ints, b.ints) || !read_result(args + 2, a, objects, qparams) ||
      !read_bool(args[5], relu) || is_tracing()) {
    Py_RETURN_NONE;
  }
  TensorView out = a.ints;
  const int64_t size = out.elements();
  const auto run = [&](void* to) {
    kRun(a.ints.data, a.qparams, b.ints.data, b.qparams, size, a.is_signed(), qparams, relu, to);
  };
  return or_none(wrap_qtensor(run_into_new(out, size, run), objects));
}

// Tensors of one shape but for dimension `dim`, as rows: of the pixels of channels-last images, or
// of what lies together between two pieces of other tensors.
struct Rows {
  std::array<CatPart, kMaxParts> parts;
  int64_t count = 0, rows = 0, bytes = 0;

  // Adds (N, C, spatial...) whose channels are neighbours and whose pixels lie at one distance.
  bool add_pixels(const QTensorView& q) {
    const TensorView& x = q.ints;
    TensorView last = x;
    std::copy(x.size + 2, x.size + x.ndim, last.size + 1);
    std::copy(x.stride + 2, x.stride + x.ndim, last.stride + 1);
    last.size[x.ndim - 1] = x.size[1];
    last.stride[x.ndim - 1] = x.stride[1];
    ptrdiff_t stride;
    if (!as_rows(last, x.size[1], rows, stride)) return false;
    return add(q, x.size[1], stride);
  }

  // Adds a contiguous tensor.
  bool add_contiguous(const QTensorView& q, int32_t dim) {
    const TensorView& x = q.ints;
    if (!x.is_contiguous()) return false;
    int64_t size = 1;
    for (int32_t d = dim; d < x.ndim; ++d) size *= x.size[d];
    rows = x.elements() / size;
    return add(q, size, size);
  }

 private:
  bool add(const QTensorView& q, int64_t size, ptrdiff_t stride) {
    parts[count++] = {q.ints.data, size, stride, q.qparams};
    bytes += size;
    return true;
  }
};

// A list or tuple of 8-bit QTensors of one dtype, dimension, output scale, zero point and dtype.
PyObject* cat_direct(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 5 || !(PyList_CheckExact(args[0]) || PyTuple_CheckExact(args[0]))) Py_RETURN_NONE;
  // Another thread may change the list while this one runs without the GIL; not so the tuple.
  const auto held = py::reinterpret_steal<py::object>(PySequence_Tuple(args[0]));
  if (!held) return nullptr;
  const Py_ssize_t tensors = PyTuple_GET_SIZE(held.ptr());
  PyObject* const* const items = PySequence_Fast_ITEMS(held.ptr());
  std::array<QTensorView, kMaxParts> views;
  int32_t dim;
  if (tensors < 1 || tensors > kMaxParts || !read_int32(args[1], dim)) Py_RETURN_NONE;
  for (Py_ssize_t i = 0; i < tensors; ++i) {
    if (!read_qtensor(items[i], views[i]) || !views[i].is_8_bit()) Py_RETURN_NONE;
  }
  const TensorView& first = views[0].ints;
  const int32_t ndim = first.ndim;
  if (dim < 0) dim += ndim;
  OutputObjects objects;
  QParams qparams;
  if (dim < 0 || dim >= ndim || !read_result(args + 2, views[0], objects, qparams) ||
      is_tracing()) {
    Py_RETURN_NONE;
  }
  TensorView out = first;
  out.size[dim] = 0;
  bool pixels = dim == 1 && ndim >= 3 && ndim <= 5, contiguous = true;
  Rows images, lines;
  for (Py_ssize_t i = 0; i < tensors; ++i) {
    TensorView x = views[i].ints;
    out.size[dim] += x.size[dim];
    x.size[dim] = first.size[dim];
    if (x.type != first.type || !same_shape(x, first)) Py_RETURN_NONE;
    pixels = pixels && images.add_pixels(views[i]);
    contiguous = contiguous && lines.add_contiguous(views[i], dim);
  }
  if (!pixels && !contiguous) Py_RETURN_NONE;
  make_contiguous(out);
  if (pixels) {
    int64_t stride = out.size[1];
    out.stride[1] = 1;
    for (int32_t d = ndim - 1; d >= 0; --d) {
      if (d == 1) continue;
      out.stride[d] = stride;
      stride *= out.size[d];
    }
  }
  const Rows& rows = pixels ? images : lines;
  const auto run = [&](void* to) {
    cat(rows.parts.data(), rows.count, rows.rows, views[0].is_signed(), qparams, to, rows.bytes);
  };
  return or_none(wrap_qtensor(run_into_new(out, out.elements(), run), objects));
}

PyMethodDef functions[] = {
    fast_method("clamp_direct", clamp_direct), fast_method("add_direct", binary_direct<add>),
    fast_method("mul_direct", binary_direct<mul>), fast_method("cat_direct", cat_direct)};

}  // namespace

void add_direct_elementwise(py::module_& m) {
  for (PyMethodDef& function : functions) add_function(m, &function);
}

}  // namespace octavo::bind
