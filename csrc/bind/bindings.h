// The Python extension. python/octavo/ops is its only caller. Most functions take addresses, shapes
// and strides of tensors whose dtypes and layouts Python has checked; what depends on values is
// checked in ops/ and arrives in Python as ValueError. The direct entry points (bind/direct.h) take
// tensors.
#pragma once

#include <pybind11/pybind11.h>

namespace octavo::bind {

// An address as Python's Tensor.data_ptr() gives it.
template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void add_backend(pybind11::module_& m);
void add_direct(pybind11::module_& m);  // after add_weights()
void add_elementwise(pybind11::module_& m);
void add_weights(pybind11::module_& m);

}  // namespace octavo::bind
