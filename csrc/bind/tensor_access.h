// torch tensors as C++ sees them, without libtorch and, where torch offers it, without a call into
// Python: what the direct entry points (direct_bind.cpp) are made of.
//
// Nothing here reports errors. A tensor that is not as a direct entry point wants it makes that
// entry point return None, and the Python layer, which knows the module and the argument, takes
// over: it converts the tensor, or says what is wrong with it.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace octavo::bind {

enum class ElementType : uint8_t {
  kU8 = 0,
  kS8 = 1,
  kI32 = 2,
  kF32 = 3,
  kBF16 = 4,
  kF16 = 5,
  kI64 = 6
};
constexpr int kElementTypes = 7;
constexpr bool is_float(ElementType type) {
  return type >= ElementType::kF32 && type <= ElementType::kF16;
}

constexpr int32_t kMaxDims = 8;

// A dense-layout CPU tensor with at least one element. Sizes and strides (in elements) are copies.
struct TensorView {
  void* data;
  ElementType type;
  int32_t ndim;
  int64_t size[kMaxDims];
  int64_t stride[kMaxDims];

  int64_t elements() const;
  bool is_contiguous() const;
  bool is_channels_last() const;  // (N, C, spatial...) whose memory order is N, spatial, C
};

// How tensors are read and made. kExchange is the default where torch has the table of DLPack 1.3
// (torch 2.10 on), kAttributes elsewhere; kNone makes every entry point return None. For tests.
enum class TensorAccess { kNone, kAttributes, kExchange };
TensorAccess tensor_access();
// False, and no change, where torch does not offer it.
bool set_tensor_access(TensorAccess access);

// Finds what is needed of torch. Needs the GIL; once, before the functions below.
void connect_torch();

// Whether `object` is a plain torch.Tensor (no subclass) on the CPU, of one of the types above,
// with 1 to kMaxDims dimensions, and its memory holds its values: not meta, not sparse, no negative
// bit.
bool read_tensor(PyObject* object, TensorView& view);

// A new tensor of `view`'s type, sizes and strides, which describe memory without gaps; sets
// view.data. Returns a new reference, or null without an exception.
PyObject* new_tensor(TensorView& view);

// The tensor as rows of `columns` neighbouring elements, `stride` elements from row to row: the
// last dimension against all others. False where it is no such thing.
bool as_rows(const TensorView& view, int64_t columns, int64_t& rows, ptrdiff_t& stride);

// Sets the strides of a contiguous tensor.
void make_contiguous(TensorView& view);

// torch.jit.trace is recording; it would leave our kernels out.
bool is_tracing();

// Numbers as Python's float and int (no subclasses) hold them.
bool read_float(PyObject* object, float& value);
bool read_int32(PyObject* object, int32_t& value);
// True or False, nothing that only counts as one.
bool read_bool(PyObject* object, bool& value);

}  // namespace octavo::bind
