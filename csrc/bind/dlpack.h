// The part of DLPack's ABI that bind/ uses: tensors as plain structs, and the table of C functions
// with which a Python tensor type reads and makes its objects.
//
// Source: DLPack 1.3, https://dmlc.github.io/dlpack/latest/c_api.html. Layouts are fixed within a
// major version; the table came with 1.3.
#pragma once

#include <cstdint>

namespace octavo::bind::dlpack {

constexpr uint32_t kMajor = 1;
constexpr int32_t kCpu = 1;  // device type

enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4 };

struct Version {
  uint32_t major, minor;
};

struct Device {
  int32_t type, index;
};

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
  bool operator==(const DataType&) const = default;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements
  uint64_t byte_offset;
};

struct ManagedTensor {  // DLManagedTensorVersioned
  Version version;
  void* context;
  void (*deleter)(ManagedTensor* self);
  uint64_t flags;
  Tensor tensor;
};

// Functions return 0, or -1 with a Python exception set. `object` is a PyObject*.
struct ExchangeApi {
  Version version;
  const ExchangeApi* older;  // of an earlier major version, or null
  void* managed_tensor_allocator;
  int (*managed_tensor_from_object)(void* object, ManagedTensor** out);
  int (*managed_tensor_to_object)(ManagedTensor* tensor, void** out_object);
  // Shape and strides stay those of the object. May be null.
  int (*tensor_from_object)(void* object, Tensor* out);
  void* current_work_stream;
};

}  // namespace octavo::bind::dlpack
