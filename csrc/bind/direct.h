// What direct entry points share. One of them is a function of CPython's fastcall convention that
// takes tensors as objects and returns a new one, or None where the Python layer is to take over:
// where an argument is not of the plain kind that the entry point reads (bind/tensor_access.h), and
// where the driver refuses. So every message comes from Python, and what a direct entry point does
// not do costs a microsecond and is done as if it were not there.
#pragma once

#include <algorithm>

#include "bind/clock.h"
#include "bind/qtensor_access.h"

namespace octavo::bind {

// Gives the GIL up for work that takes longer than a microsecond or so: `cost` as for
// parallel_for(). Giving it up costs 30 ns where nobody wants it, and up to Python's switch
// interval (5 ms) where somebody does; for less than kGrain, others had better wait. Counts the
// work.
class GilRelease {
 public:
  explicit GilRelease(int64_t cost) : state_(cost > kGrain ? PyEval_SaveThread() : nullptr) {}
  ~GilRelease() {
    if (state_) PyEval_RestoreThread(state_);
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  static constexpr int64_t kGrain = 1 << 16;
  Clocked<Work::kCompute> clocked_;
  PyThreadState* state_;
};

inline bool same_shape(const TensorView& a, const TensorView& b) {
  return a.ndim == b.ndim && std::equal(a.size, a.size + a.ndim, b.size);
}

// Strides of dimensions with one element mean nothing.
inline bool same_strides(const TensorView& a, const TensorView& b) {
  for (int32_t d = 0; d < a.ndim; ++d) {
    if (a.size[d] != 1 && a.stride[d] != b.stride[d]) return false;
  }
  return true;
}

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

// Runs kernel(void* out) with a new tensor of `out`'s type, sizes and strides. Returns the tensor,
// or null where there is none or the kernel throws.
template <typename Kernel>
PyObject* run_into_new(TensorView& out, int64_t cost, Kernel kernel) {
  PyObject* const tensor = new_tensor(out);
  if (!tensor) return nullptr;
  try {
    const GilRelease release(cost);
    kernel(out.data);
  } catch (...) {
    Py_DECREF(tensor);
    return nullptr;
  }
  return tensor;
}

// `result`, or None for null.
inline PyObject* or_none(PyObject* result) {
  if (result) return result;
  Py_RETURN_NONE;
}

// The C++ object behind `self`, an instance of a class that pybind11 made.
template <typename T>
const T& self_of(PyObject* self) {
  auto* const instance = reinterpret_cast<pybind11::detail::instance*>(self);
  return *static_cast<const T*>(instance->get_value_and_holder().value_ptr());
}

using FastCall = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);

// Makes `definition` a method of `type`. Python keeps a pointer to `definition`.
inline void add_method(pybind11::handle type, PyMethodDef* definition) {
  auto* const owner = reinterpret_cast<PyTypeObject*>(type.ptr());
  const auto method =
      pybind11::reinterpret_steal<pybind11::object>(PyDescr_NewMethod(owner, definition));
  if (!method) throw pybind11::error_already_set();
  pybind11::setattr(type, definition->ml_name, method);
}

// Makes `definition` a function of the module.
inline void add_function(pybind11::module_& m, PyMethodDef* definition) {
  const auto function = pybind11::reinterpret_steal<pybind11::object>(
      PyCFunction_NewEx(definition, nullptr, m.attr("__name__").ptr()));
  if (!function) throw pybind11::error_already_set();
  m.attr(definition->ml_name) = function;
}

inline PyMethodDef fast_method(const char* name, FastCall call) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)), METH_FASTCALL,
          nullptr};
}

}  // namespace octavo::bind
