// QTensor (python/octavo/tensor.py) as C++ sees it: its slots by their offsets.
#pragma once

#include "bind/tensor_access.h"
#include "ops/quantized_weight.h"

namespace octavo::bind {

// Output qparams as Python objects, which a QTensor keeps.
struct OutputObjects {
  PyObject* scale;
  PyObject* zero_point;
  PyObject* qdtype;
  PyObject* qscheme = nullptr;  // null: the scheme that connect_qtensor() was given
};

// A QTensor with one scale, of a dtype that fits its storage. Holds what it shows: another thread
// may give the QTensor other integers and qparams (QTensor.copy_) while a kernel reads.
struct QTensorView {
  TensorView ints;
  QParams qparams;
  pybind11::object tensor, scale, zero_point, qdtype, qscheme;

  bool is_signed() const { return ints.type == ElementType::kS8; }
  bool is_8_bit() const { return ints.type != ElementType::kI32; }
  OutputObjects objects() const {
    return {scale.ptr(), zero_point.ptr(), qdtype.ptr(), qscheme.ptr()};
  }
};

// Takes the class, its dtypes by storage (quint8, qint8, qint32) and the scheme of the tensors that
// wrap_qtensor() makes.
void connect_qtensor(pybind11::type qtensor, pybind11::object quint8, pybind11::object qint8,
                     pybind11::object qint32, pybind11::object per_tensor_affine);

// Whether `object` is a QTensor (no subclass) with one scale over a tensor that read_tensor()
// takes.
bool read_qtensor(PyObject* object, QTensorView& view);

// The dtype with this storage: kU8, kS8 or kI32.
PyObject* qdtype_of(ElementType type);

// Whether the objects are a float, an int and one of the three dtypes; sets qparams and `type`, the
// dtype's storage.
bool read_output(const OutputObjects& objects, QParams& qparams, ElementType& type);

// A QTensor over `ints`, whose reference it takes. Null without an exception where torch refuses or
// `ints` is null.
PyObject* wrap_qtensor(PyObject* ints, const OutputObjects& objects);

}  // namespace octavo::bind
