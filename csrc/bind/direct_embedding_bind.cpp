// The direct entry points of look-ups in embedding tables, from tensors to tensors.
#include <algorithm>

#include "bind/bindings.h"
#include "bind/direct.h"
#include "ops/embedding.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

// What octavo.ops.EmbeddingWeight gives: storage, qparams, columns, whether they are nibbles.
bool read_table(PyObject* object, EmbeddingArgs& args, bool& nibbles) {
  if (!PyTuple_CheckExact(object) || PyTuple_GET_SIZE(object) != 4) return false;
  TensorView storage, qparams;
  int32_t columns;
  if (!read_tensor(PyTuple_GET_ITEM(object, 0), storage) || storage.type != ElementType::kU8 ||
      !read_tensor(PyTuple_GET_ITEM(object, 1), qparams) || qparams.type != ElementType::kF32 ||
      !read_int32(PyTuple_GET_ITEM(object, 2), columns) ||
      !read_bool(PyTuple_GET_ITEM(object, 3), nibbles)) {
    return false;
  }
  args.table = static_cast<const uint8_t*>(storage.data);
  args.qparams = static_cast<const float*>(qparams.data);
  args.table_rows = storage.size[0];
  args.columns = columns;
  args.row_bytes = nibbles ? (int64_t{columns} + 1) / 2 : columns;
  return storage.ndim == 2 && storage.size[1] == args.row_bytes && storage.is_contiguous() &&
         qparams.ndim == 2 && qparams.size[0] == args.table_rows && qparams.size[1] == 2 &&
         qparams.is_contiguous();
}

bool read_integers(PyObject* object, TensorView& view) {
  return read_tensor(object, view) &&
         (view.type == ElementType::kI32 || view.type == ElementType::kI64) && view.is_contiguous();
}

void set_indices(const TensorView& indices, EmbeddingArgs& args) {
  args.indices = indices.data;
  args.count = indices.elements();
  args.is_64_bit = indices.type == ElementType::kI64;
}

// Runs the look-ups into a new tensor of the sizes of `out` and the table's columns.
PyObject* run_embedding(EmbeddingArgs& args, bool nibbles, TensorView& out) {
  out.type = ElementType::kF32;
  out.size[out.ndim++] = args.columns;
  make_contiguous(out);
  const int64_t cost = (args.count + args.bag_end) * args.columns;
  return or_none(run_into_new(out, cost, [&](void* to) {
    args.out = static_cast<float*>(to);
    embedding_bags(args, nibbles);
  }));
}

// Table, indices.
PyObject* embedding_direct(PyObject*, PyObject* const* objects, Py_ssize_t count) {
  EmbeddingArgs args{};
  bool nibbles;
  TensorView indices;
  if (count != 2 || !read_integers(objects[1], indices) || indices.ndim == kMaxDims ||
      !read_table(objects[0], args, nibbles) || is_tracing()) {
    Py_RETURN_NONE;
  }
  set_indices(indices, args);
  args.bag_length = 1;
  args.bag_end = args.count;
  args.padding = -1;
  return run_embedding(args, nibbles, indices);
}

bool read_mode(PyObject* object, EmbeddingMode& mode) {
  if (!PyUnicode_CheckExact(object)) return false;
  static constexpr const char* kNames[] = {"sum", "mean", "max"};
  for (int i = 0; i < 3; ++i) {
    mode = static_cast<EmbeddingMode>(i);
    if (PyUnicode_CompareWithASCIIString(object, kNames[i]) == 0) return true;
  }
  return false;
}

// Where the bags are: rows of `indices`, or, where that has one dimension, from each of `offsets`
// on, with `has_end` up to the last of them.
bool read_bags(const TensorView& indices, PyObject* offsets, bool has_end, EmbeddingArgs& args) {
  if (offsets == Py_None) {
    if (indices.ndim != 2) return false;
    args.bag_end = indices.size[0];
    args.bag_length = indices.size[1];
    return true;
  }
  TensorView view;
  if (indices.ndim != 1 || !read_integers(offsets, view) || view.ndim != 1 ||
      view.type != indices.type) {
    return false;
  }
  args.offsets = view.data;
  args.offset_count = view.size[0];
  args.bag_end = args.offset_count - has_end;
  return args.bag_end > 0;
}

// Weights of the indices; only sums have them.
bool read_weights(PyObject* object, const TensorView& indices, EmbeddingArgs& args) {
  if (object == Py_None) return true;
  TensorView view;
  if (args.mode != EmbeddingMode::kSum || !read_tensor(object, view) ||
      view.type != ElementType::kF32 || !view.is_contiguous() || view.ndim != indices.ndim ||
      !std::equal(view.size, view.size + view.ndim, indices.size)) {
    return false;
  }
  args.weights = static_cast<const float*>(view.data);
  return true;
}

// An index of the table, also counted from its end; -1 for None.
bool read_padding(PyObject* object, EmbeddingArgs& args) {
  args.padding = -1;
  if (object == Py_None) return true;
  int32_t index;
  if (!read_int32(object, index) || index < -args.table_rows || index >= args.table_rows) {
    return false;
  }
  args.padding = index < 0 ? index + args.table_rows : index;
  return true;
}

// Table, indices, offsets, mode, weights, whether the last offset is the end, padding index.
PyObject* embedding_bag_direct(PyObject*, PyObject* const* objects, Py_ssize_t count) {
  EmbeddingArgs args{};
  bool nibbles, has_end;
  TensorView indices;
  if (count != 7 || !read_integers(objects[1], indices) || !read_table(objects[0], args, nibbles) ||
      !read_bool(objects[5], has_end) || !read_bags(indices, objects[2], has_end, args) ||
      !read_mode(objects[3], args.mode) || !read_weights(objects[4], indices, args) ||
      !read_padding(objects[6], args) || is_tracing()) {
    Py_RETURN_NONE;
  }
  set_indices(indices, args);
  TensorView out;
  out.ndim = 1;
  out.size[0] = args.bag_end;
  return run_embedding(args, nibbles, out);
}

PyMethodDef functions[] = {fast_method("embedding_direct", embedding_direct),
                           fast_method("embedding_bag_direct", embedding_bag_direct)};

}  // namespace

void add_direct_embedding(py::module_& m) {
  for (PyMethodDef& function : functions) add_function(m, &function);
}

}  // namespace octavo::bind
