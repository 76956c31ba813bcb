#include "abi/out_kind.h"
#include "bind/bindings.h"
#include "bind/clock.h"
#include "bind/weight_arguments.h"
#include "ops/dynamic_linear.h"
#include "ops/linear.h"
#include "ops/linear_function.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

std::unique_ptr<QuantizedWeight> make_linear(uintptr_t weights, int32_t n, int32_t k,
                                             uintptr_t scales, uintptr_t zeros, uintptr_t bias) {
  return std::make_unique<QuantizedWeight>(pointer<const int8_t>(weights, int64_t{n} * k),
                                           WeightShape{1, n, 1, k},
                                           weight_params(n, scales, zeros, bias), false);
}

void run_linear(const QuantizedWeight& w, uintptr_t x, int64_t rows, int64_t columns,
                ptrdiff_t stride, bool is_signed, float x_scale, int32_t x_zero, int kind,
                float out_scale, int32_t out_zero, bool relu, uintptr_t out) {
  const OutputSpec spec{out_kind(kind), {out_scale, out_zero}, relu};
  const ptrdiff_t out_stride = w.channels() * kind_bytes(spec.kind);
  linear(w, {pointer<const void>(x, rows * columns), rows, columns, stride, is_signed},
         {x_scale, x_zero}, spec, pointer<void>(out, rows * w.channels()), out_stride);
}

void run_function(const QuantizedWeight& w, uintptr_t x, int64_t rows, int64_t columns,
                  ptrdiff_t stride, bool is_signed, float x_scale, int32_t x_zero, int function,
                  float slope, bool out_signed, float out_scale, int32_t out_zero, uintptr_t out) {
  if (function < 0 || function >= kFloatFunctions)
    throw std::invalid_argument("function must be 0 (leaky ReLU) or 1 (tanh)");
  linear_function(w, {pointer<const void>(x, rows * columns), rows, columns, stride, is_signed},
                  {x_scale, x_zero}, static_cast<FloatFunction>(function), slope,
                  {out_scale, out_zero}, out_signed, pointer<void>(out, rows * w.channels()),
                  w.channels());
}

void run_dynamic(const QuantizedWeight& w, uintptr_t x, int type, int64_t rows, int64_t columns,
                 ptrdiff_t stride, bool per_tensor, bool reduce_range, bool relu, bool gelu,
                 uintptr_t out) {
  if (type < 0 || type > 2) throw std::invalid_argument("float type must be 0 .. 2");
  const FloatView floats{pointer<const void>(x, rows * columns), static_cast<FloatType>(type), rows,
                         columns, stride};
  dynamic_linear(w, floats, {per_tensor, reduce_range, relu, gelu},
                 pointer<void>(out, rows * w.channels()), w.channels() * (type == 0 ? 4 : 2));
}

}  // namespace

void add_weights(py::module_& m) {
  py::class_<QuantizedWeight>(m, "LinearWeight")
      .def(py::init(&make_linear), Release())
      .def("run", &run_linear, Release())
      .def("run_function", &run_function, Release())
      .def("run_dynamic", &run_dynamic, Release())
      .def(
          "unpack",
          [](const QuantizedWeight& w, uintptr_t out) { w.unpack(pointer<int8_t>(out, 1)); },
          Release())
      .def("packed_bytes", &QuantizedWeight::packed_bytes);
}

}  // namespace octavo::bind
