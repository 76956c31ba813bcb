// The Python extension: addresses, shapes and strides in, nothing of torch. python/octavo/ops.py is
// its only caller and has checked dtypes and layouts; what depends on values is checked in ops/ and
// arrives in Python as ValueError.
#pragma once

#include <pybind11/pybind11.h>

namespace octavo::bind {

// An address as Python's Tensor.data_ptr() gives it.
template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void add_backend(pybind11::module_& m);
void add_elementwise(pybind11::module_& m);
void add_weights(pybind11::module_& m);

}  // namespace octavo::bind
