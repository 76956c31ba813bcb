// The Python extension. python/octavo/ops is its only caller. Most functions take addresses, shapes
// and strides of tensors whose dtypes and layouts Python has checked; what depends on values is
// checked in ops/ and arrives in Python as ValueError. The direct entry points (bind/direct.h) take
// tensors.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>

namespace octavo::bind {

// An address as Python's Tensor.data_ptr() gives it, of a tensor with so many elements. Throws
// where a tensor with elements has no memory, as those have that only record what is done to them.
template <typename T>
T* pointer(uintptr_t address, int64_t elements) {
  if (!address && elements > 0) {
    throw std::runtime_error(
        "a tensor has no memory to read or write: it is fake, or torch.compile, torch.export, "
        "torch.func or a default device other than the CPU stands behind it. Octavo's kernels run "
        "eagerly, on real CPU tensors");
  }
  return reinterpret_cast<T*>(address);
}

void add_attention(pybind11::module_& m);
void add_backend(pybind11::module_& m);
void add_conv(pybind11::module_& m);
void add_conv_transpose(pybind11::module_& m);
void add_direct(pybind11::module_& m);  // after add_weights()
void add_direct_elementwise(pybind11::module_& m);
void add_direct_embedding(pybind11::module_& m);
void add_direct_fake_quantize(pybind11::module_& m);
void add_direct_images(pybind11::module_& m);
void add_direct_normalize(pybind11::module_& m);
void add_elementwise(pybind11::module_& m);
void add_embedding(pybind11::module_& m);
void add_images(pybind11::module_& m);
void add_recurrent(pybind11::module_& m);  // after add_weights()
void add_normalize(pybind11::module_& m);
void add_weights(pybind11::module_& m);

}  // namespace octavo::bind
