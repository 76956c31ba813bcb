#include "bind/qtensor_access.h"

#include <structmember.h>  // PyMemberDef, in Python.h from 3.12 on

#include <utility>

namespace py = pybind11;

namespace octavo::bind {
namespace {

// What we hold of the class, from its module's import on.
struct {
  PyTypeObject* type = nullptr;
  PyObject* make_subclass = nullptr;
  PyObject* dtype[3] = {};  // by ElementType
  PyObject* per_tensor_affine = nullptr;
  PyMemberDef *axis, *ints, *qdtype, *qscheme, *scale, *zero_point;
} qtensor;

// How objects of `type` keep the slot `name`.
PyMemberDef* slot_of(const py::type& type, const char* name) {
  const py::object descriptor = type.attr(name);
  if (!Py_IS_TYPE(descriptor.ptr(), &PyMemberDescr_Type)) {
    throw py::type_error(std::string("connect: QTensor.") + name + " is not a slot");
  }
  return reinterpret_cast<PyMemberDescrObject*>(descriptor.ptr())->d_member;
}

PyObject*& slot(PyObject* object, const PyMemberDef* member) {
  return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + member->offset);
}

// What a slot holds, or null.
py::object held(PyObject* object, PyMemberDef* member) {
#if defined(Py_GIL_DISABLED)
  // Without the GIL, a reference is safely taken only as Python itself does it.
  auto value =
      py::reinterpret_steal<py::object>(PyMember_GetOne(reinterpret_cast<char*>(object), member));
  if (!value) PyErr_Clear();
  return value;
#else
  return py::reinterpret_borrow<py::object>(slot(object, member));
#endif
}

// For an object that no other thread knows yet.
void set_slot(PyObject* object, const PyMemberDef* member, PyObject* value) {
  Py_INCREF(value);
  Py_XDECREF(std::exchange(slot(object, member), value));
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
  qtensor.axis = slot_of(type, "_axis");
  qtensor.ints = slot_of(type, "_int");
  qtensor.qdtype = slot_of(type, "_qdtype");
  qtensor.qscheme = slot_of(type, "_qscheme");
  qtensor.scale = slot_of(type, "_scale");
  qtensor.zero_point = slot_of(type, "_zero_point");
  qtensor.make_subclass = py::object(type.attr("_make_subclass")).release().ptr();
  qtensor.dtype[0] = quint8.release().ptr();
  qtensor.dtype[1] = qint8.release().ptr();
  qtensor.dtype[2] = qint32.release().ptr();
  qtensor.per_tensor_affine = per_tensor_affine.release().ptr();
  qtensor.type = reinterpret_cast<PyTypeObject*>(type.release().ptr());
}

bool read_qtensor(PyObject* object, QTensorView& view) {
  if (Py_TYPE(object) != qtensor.type || !held(object, qtensor.axis).is_none()) return false;
  view.tensor = held(object, qtensor.ints);
  view.scale = held(object, qtensor.scale);
  view.zero_point = held(object, qtensor.zero_point);
  view.qdtype = held(object, qtensor.qdtype);
  view.qscheme = held(object, qtensor.qscheme);
  ElementType type;
  return view.tensor && view.scale && view.zero_point &&
         read_output(view.objects(), view.qparams, type) &&
         read_tensor(view.tensor.ptr(), view.ints) && view.ints.type == type;
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
