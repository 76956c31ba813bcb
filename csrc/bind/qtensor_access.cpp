#include "bind/qtensor_access.h"

#include <structmember.h>  // PyMemberDef, in Python.h from 3.12 on

#include <utility>

namespace py = pybind11;

namespace octavo::bind {
namespace {

struct {
  PyTypeObject* type = nullptr;
  PyObject* make_subclass = nullptr;
  PyObject* dtype[3] = {};  // by ElementType
  PyObject* per_tensor_affine = nullptr;
  Py_ssize_t axis, ints, qdtype, qscheme, scale, zero_point;  // offsets
} qtensor;

// Where objects of `type` keep the slot `name`.
Py_ssize_t slot_offset(const py::type& type, const char* name) {
  const py::object descriptor = type.attr(name);
  if (!Py_IS_TYPE(descriptor.ptr(), &PyMemberDescr_Type)) {
    throw py::type_error(std::string("connect: QTensor.") + name + " is not a slot");
  }
  return reinterpret_cast<PyMemberDescrObject*>(descriptor.ptr())->d_member->offset;
}

PyObject*& slot(PyObject* object, Py_ssize_t offset) {
  return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset);
}

void set_slot(PyObject* object, Py_ssize_t offset, PyObject* value) {
  Py_INCREF(value);
  Py_XDECREF(std::exchange(slot(object, offset), value));
}

bool read_qdtype(PyObject* object, ElementType& type) {
  for (int i = 0; i < 3; ++i) {
    if (object != qtensor.dtype[i]) continue;
    type = static_cast<ElementType>(i);
    return true;
  }
  return false;
}

}  // namespace

void connect_qtensor(py::type type, py::object quint8, py::object qint8, py::object qint32,
                     py::object per_tensor_affine) {
  qtensor.axis = slot_offset(type, "_axis");
  qtensor.ints = slot_offset(type, "_int");
  qtensor.qdtype = slot_offset(type, "_qdtype");
  qtensor.qscheme = slot_offset(type, "_qscheme");
  qtensor.scale = slot_offset(type, "_scale");
  qtensor.zero_point = slot_offset(type, "_zero_point");
  qtensor.make_subclass = py::object(type.attr("_make_subclass")).release().ptr();
  qtensor.dtype[0] = quint8.release().ptr();
  qtensor.dtype[1] = qint8.release().ptr();
  qtensor.dtype[2] = qint32.release().ptr();
  qtensor.per_tensor_affine = per_tensor_affine.release().ptr();
  qtensor.type = reinterpret_cast<PyTypeObject*>(type.release().ptr());
}

bool read_qtensor(PyObject* object, QTensorView& view) {
  if (Py_TYPE(object) != qtensor.type || slot(object, qtensor.axis) != Py_None) return false;
  PyObject* const ints = slot(object, qtensor.ints);
  const OutputObjects objects{slot(object, qtensor.scale), slot(object, qtensor.zero_point),
                              slot(object, qtensor.qdtype)};
  ElementType type;
  return ints && objects.scale && objects.zero_point && read_output(objects, view.qparams, type) &&
         read_tensor(ints, view.ints) && view.ints.type == type;
}

OutputObjects objects_of(PyObject* object) {
  return {slot(object, qtensor.scale), slot(object, qtensor.zero_point),
          slot(object, qtensor.qdtype), slot(object, qtensor.qscheme)};
}

PyObject* qdtype_of(ElementType type) { return qtensor.dtype[static_cast<int>(type)]; }

bool read_output(const OutputObjects& objects, QParams& qparams, ElementType& type) {
  return read_float(objects.scale, qparams.scale) &&
         read_int32(objects.zero_point, qparams.zero_point) && read_qdtype(objects.qdtype, type);
}

PyObject* wrap_qtensor(PyObject* ints, const OutputObjects& objects) {
  if (!ints) return nullptr;
  PyObject* const arguments[] = {reinterpret_cast<PyObject*>(qtensor.type), ints};
  PyObject* const result = PyObject_Vectorcall(qtensor.make_subclass, arguments, 2, nullptr);
  if (!result || Py_TYPE(result) != qtensor.type) {
    PyErr_Clear();
    Py_XDECREF(result);
    Py_DECREF(ints);
    return nullptr;
  }
  set_slot(result, qtensor.ints, ints);
  Py_DECREF(ints);
  set_slot(result, qtensor.axis, Py_None);
  set_slot(result, qtensor.qdtype, objects.qdtype);
  set_slot(result, qtensor.qscheme, objects.qscheme ? objects.qscheme : qtensor.per_tensor_affine);
  set_slot(result, qtensor.scale, objects.scale);
  set_slot(result, qtensor.zero_point, objects.zero_point);
  return result;
}

}  // namespace octavo::bind
