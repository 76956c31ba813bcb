#include "bind/tensor_access.h"

#include <atomic>
#include <new>
#include <utility>

#include "bind/dlpack.h"
#include "util/aligned_buffer.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

// What we hold of torch, for as long as the process lives.
struct Torch {
  PyTypeObject* tensor = nullptr;
  PyObject* dtype[kElementTypes] = {};  // by ElementType
  PyObject* empty_strided = nullptr;
  PyObject* empty_strided_names = nullptr;
  PyObject* cpu = nullptr;
  PyObject* is_tracing = nullptr;
  PyObject *name_data_ptr, *name_dtype, *name_is_cpu, *name_is_neg, *name_shape, *name_stride;
  const dlpack::ExchangeApi* exchange = nullptr;
};
Torch torch;
std::atomic<TensorAccess> access = TensorAccess::kNone;

constexpr dlpack::DataType kDlTypes[] = {{dlpack::kUInt, 8, 1},    {dlpack::kInt, 8, 1},
                                         {dlpack::kInt, 32, 1},    {dlpack::kFloat, 32, 1},
                                         {dlpack::kBfloat, 16, 1}, {dlpack::kFloat, 16, 1},
                                         {dlpack::kInt, 64, 1}};

int64_t element_bytes(ElementType type) {
  if (type == ElementType::kU8 || type == ElementType::kS8) return 1;
  if (type == ElementType::kI64) return 8;
  return type == ElementType::kBF16 || type == ElementType::kF16 ? 2 : 4;
}

// The exception, if any, is forgotten: the caller's caller takes the other path.
bool failed() {
  PyErr_Clear();
  return false;
}

py::object call_method(PyObject* object, PyObject* name) {
  return py::reinterpret_steal<py::object>(
      PyObject_VectorcallMethod(name, &object, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

py::object attribute(PyObject* object, PyObject* name) {
  return py::reinterpret_steal<py::object>(PyObject_GetAttr(object, name));
}

const dlpack::ExchangeApi* find_exchange(PyTypeObject* tensor) {
  const auto capsule = py::reinterpret_steal<py::object>(
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(tensor), "__dlpack_c_exchange_api__"));
  const void* table =
      capsule ? PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api") : nullptr;
  PyErr_Clear();
  const auto* api = static_cast<const dlpack::ExchangeApi*>(table);
  while (api && api->version.major != dlpack::kMajor) api = api->older;
  return api && api->tensor_from_object ? api : nullptr;
}

// A negative bit says that the values are those in memory with the other sign; only real views of
// complex tensors have it.
bool has_negative_bit(PyObject* object) {
  const py::object answer = call_method(object, torch.name_is_neg);
  if (!answer) PyErr_Clear();
  return answer.ptr() != Py_False;
}

bool read_by_exchange(PyObject* object, TensorView& view) {
  dlpack::Tensor t;
  if (torch.exchange->tensor_from_object(object, &t) != 0) return failed();
  if (t.device.type != dlpack::kCpu || t.ndim > kMaxDims || !t.data) return false;
  int type = 0;
  while (type < kElementTypes && !(t.dtype == kDlTypes[type])) ++type;
  if (type == kElementTypes) return false;
  view.type = static_cast<ElementType>(type);
  view.data = static_cast<char*>(t.data) + t.byte_offset;
  view.ndim = t.ndim;
  for (int32_t d = 0; d < t.ndim; ++d) {
    view.size[d] = t.shape[d];
    view.stride[d] = t.strides[d];
  }
  return true;
}

bool read_sizes(const py::object& tuple, int32_t& count, int64_t* values) {
  if (!tuple || !PyTuple_Check(tuple.ptr())) return failed();
  const Py_ssize_t size = PyTuple_GET_SIZE(tuple.ptr());
  if (size > kMaxDims) return false;
  count = static_cast<int32_t>(size);
  for (Py_ssize_t d = 0; d < size; ++d) {
    values[d] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple.ptr(), d));
    if (values[d] == -1 && PyErr_Occurred()) return failed();
  }
  return true;
}

bool read_by_attributes(PyObject* object, TensorView& view) {
  if (attribute(object, torch.name_is_cpu).ptr() != Py_True) return failed();
  const py::object dtype = attribute(object, torch.name_dtype);
  int type = 0;
  while (type < kElementTypes && dtype.ptr() != torch.dtype[type]) ++type;
  if (type == kElementTypes) return failed();
  view.type = static_cast<ElementType>(type);
  int32_t strides = 0;
  if (!read_sizes(attribute(object, torch.name_shape), view.ndim, view.size) ||
      !read_sizes(call_method(object, torch.name_stride), strides, view.stride) ||
      strides != view.ndim) {
    return false;
  }
  const py::object address = call_method(object, torch.name_data_ptr);
  if (!address) return failed();
  view.data = PyLong_AsVoidPtr(address.ptr());
  return view.data ? true : failed();
}

// read_tensor(), 0-D tensors included.
bool read_any_tensor(PyObject* object, TensorView& view) {
  if (Py_TYPE(object) != torch.tensor || tensor_access() == TensorAccess::kNone) return false;
  const bool read = tensor_access() == TensorAccess::kExchange ? read_by_exchange(object, view)
                                                               : read_by_attributes(object, view);
  if (!read || view.elements() == 0) return false;
  return !is_float(view.type) || !has_negative_bit(object);
}

// Tensor, description and elements in one piece of memory, that torch's last reference frees.
struct OwnedTensor {
  dlpack::ManagedTensor managed;
  int64_t size[kMaxDims];
  int64_t stride[kMaxDims];
};
constexpr size_t kElementsOffset = (sizeof(OwnedTensor) + kAlignment - 1) / kAlignment * kAlignment;

PyObject* new_by_exchange(TensorView& view) {
  const int64_t bytes = kElementsOffset + view.elements() * element_bytes(view.type);
  void* memory = ::operator new (bytes, std::align_val_t{kAlignment}, std::nothrow);
  if (!memory) return nullptr;
  auto* owned = new (memory) OwnedTensor{};
  for (int32_t d = 0; d < view.ndim; ++d) {
    owned->size[d] = view.size[d];
    owned->stride[d] = view.stride[d];
  }
  view.data = static_cast<char*>(memory) + kElementsOffset;
  owned->managed.version = {dlpack::kMajor, 0};
  owned->managed.deleter = [](dlpack::ManagedTensor* self) {
    ::operator delete (static_cast<void*>(self), std::align_val_t{kAlignment});
  };
  owned->managed.tensor = {
      view.data,   {dlpack::kCpu, 0}, view.ndim, kDlTypes[static_cast<int>(view.type)],
      owned->size, owned->stride,     0};
  void* object = nullptr;
  if (torch.exchange->managed_tensor_to_object(&owned->managed, &object) != 0) {
    PyErr_Clear();
    return nullptr;
  }
  return static_cast<PyObject*>(object);
}

py::object tuple_of(const int64_t* values, int32_t count) {
  py::tuple tuple(count);
  for (int32_t d = 0; d < count; ++d) tuple[d] = values[d];
  return tuple;
}

PyObject* new_by_attributes(TensorView& view) {
  const py::object size = tuple_of(view.size, view.ndim), stride = tuple_of(view.stride, view.ndim);
  PyObject* const arguments[] = {size.ptr(), stride.ptr(), torch.dtype[static_cast<int>(view.type)],
                                 torch.cpu};
  auto tensor = py::reinterpret_steal<py::object>(
      PyObject_Vectorcall(torch.empty_strided, arguments, 2, torch.empty_strided_names));
  TensorView made;
  if (!tensor || !read_tensor(tensor.ptr(), made)) {
    PyErr_Clear();
    return nullptr;
  }
  view.data = made.data;
  return tensor.release().ptr();
}

}  // namespace

int64_t TensorView::elements() const {
  int64_t count = 1;
  for (int32_t d = 0; d < ndim; ++d) count *= size[d];
  return count;
}

bool TensorView::is_contiguous() const {
  int64_t expected = 1;
  for (int32_t d = ndim - 1; d >= 0; expected *= size[d--]) {
    if (size[d] != 1 && stride[d] != expected) return false;
  }
  return true;
}

bool TensorView::is_channels_last() const {
  if (ndim < 3 || ndim > 5) return false;
  if (size[1] != 1 && stride[1] != 1) return false;
  int64_t expected = size[1];
  for (int32_t d = ndim - 1; d >= 0; --d) {
    if (d == 1) continue;
    if (size[d] != 1 && stride[d] != expected) return false;
    expected *= size[d];
  }
  return true;
}

bool TensorView::is_dense() const {
  int32_t order[kMaxDims], count = 0;  // by stride, without dimensions of one element
  for (int32_t d = ndim - 1; d >= 0; --d) {
    if (size[d] == 1) continue;
    int32_t at = count++;
    for (; at > 0 && stride[order[at - 1]] > stride[d]; --at) order[at] = order[at - 1];
    order[at] = d;
  }
  int64_t expected = 1;
  for (int32_t i = 0; i < count; expected *= size[order[i++]]) {
    if (stride[order[i]] != expected) return false;
  }
  return true;
}

bool as_rows(const TensorView& view, int64_t columns, int64_t& rows, ptrdiff_t& stride) {
  const int32_t last = view.ndim - 1;
  if (view.size[last] != columns || (columns != 1 && view.stride[last] != 1)) return false;
  rows = 1;
  stride = columns;
  for (int32_t d = last - 1; d >= 0; --d) {
    if (view.size[d] == 1) continue;
    if (rows == 1) {
      stride = view.stride[d];
    } else if (view.stride[d] != rows * stride) {
      return false;
    }
    rows *= view.size[d];
  }
  return true;
}

void make_contiguous(TensorView& view) {
  int64_t stride = 1;
  for (int32_t d = view.ndim - 1; d >= 0; stride *= view.size[d--]) view.stride[d] = stride;
}

void connect_torch() {
  const py::module_ module = py::module_::import("torch");
  const auto keep = [](py::object object) { return object.release().ptr(); };
  torch.tensor = reinterpret_cast<PyTypeObject*>(keep(module.attr("Tensor")));
  const char* const dtypes[] = {"uint8",    "int8",    "int32", "float32",
                                "bfloat16", "float16", "int64"};
  for (int i = 0; i < kElementTypes; ++i) torch.dtype[i] = keep(module.attr(dtypes[i]));
  torch.empty_strided = keep(module.attr("empty_strided"));
  torch.empty_strided_names = keep(py::make_tuple("dtype", "device"));
  torch.cpu = keep(module.attr("device")("cpu"));
  torch.is_tracing = keep(module.attr("_C").attr("_get_tracing_state"));
  const std::pair<PyObject**, const char*> names[] = {
      {&torch.name_data_ptr, "data_ptr"}, {&torch.name_dtype, "dtype"},
      {&torch.name_is_cpu, "is_cpu"},     {&torch.name_is_neg, "is_neg"},
      {&torch.name_shape, "shape"},       {&torch.name_stride, "stride"}};
  for (const auto& [name, text] : names) *name = PyUnicode_InternFromString(text);
  torch.exchange = find_exchange(torch.tensor);
  access = torch.exchange ? TensorAccess::kExchange : TensorAccess::kAttributes;
}

TensorAccess tensor_access() { return access.load(std::memory_order_relaxed); }

bool set_tensor_access(TensorAccess wanted) {
  if (wanted == TensorAccess::kExchange && !torch.exchange) return false;
  access = wanted;
  return true;
}

bool read_tensor(PyObject* object, TensorView& view) {
  return read_any_tensor(object, view) && view.ndim > 0;
}

void* read_values(PyObject* object, ElementType type, int64_t count) {
  TensorView view;
  const bool usable = read_any_tensor(object, view) && view.ndim <= 1 && view.is_contiguous() &&
                      view.type == type && view.elements() == count;
  return usable ? view.data : nullptr;
}

PyObject* new_tensor(TensorView& view) {
  return tensor_access() == TensorAccess::kExchange ? new_by_exchange(view)
                                                    : new_by_attributes(view);
}

bool is_tracing() {
  PyObject* state = PyObject_CallNoArgs(torch.is_tracing);
  const bool tracing = state != Py_None;
  if (!state) PyErr_Clear();
  Py_XDECREF(state);
  return tracing;
}

bool read_float(PyObject* object, float& value) {
  if (!PyFloat_CheckExact(object)) return false;
  value = static_cast<float>(PyFloat_AS_DOUBLE(object));
  return true;
}

bool read_int32(PyObject* object, int32_t& value) {
  if (!PyLong_CheckExact(object)) return false;
  int overflow = 0;
  const long long wide = PyLong_AsLongLongAndOverflow(object, &overflow);
  value = static_cast<int32_t>(wide);
  return overflow == 0 && wide == value;
}

bool read_bool(PyObject* object, bool& value) {
  value = object == Py_True;
  return PyBool_Check(object);
}

}  // namespace octavo::bind
