#include <pybind11/stl.h>

#include <array>

#include "bind/bindings.h"
#include "bind/clock.h"
#include "ops/normalize.h"
#include "ops/unary_table.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

// (address, is int8, scale, zero point)
using InputTuple = std::tuple<uintptr_t, bool, float, int32_t>;
// (address, is int8, scale, zero point, ReLU)
using OutputTuple = std::tuple<uintptr_t, bool, float, int32_t, bool>;
// (batch, channels, pixels, channels last)
using LayoutTuple = std::tuple<int64_t, int64_t, int64_t, bool>;

ByteInput input(const InputTuple& x, int64_t size) {
  const auto& [address, is_signed, scale, zero] = x;
  return {pointer<const void>(address, size), is_signed, {scale, zero}};
}

ByteOutput output(const OutputTuple& y, int64_t size) {
  const auto& [address, is_signed, scale, zero, relu] = y;
  return {pointer<void>(address, size), is_signed, {scale, zero}, relu};
}

ChannelLayout layout(const LayoutTuple& l) {
  return {std::get<0>(l), std::get<1>(l), std::get<2>(l), std::get<3>(l)};
}

int64_t size_of(const ChannelLayout& l) { return l.batch * l.channels * l.pixels; }

}  // namespace

void add_normalize(py::module_& m) {
  m.def("unary_table", [](const std::string& name, const std::array<double, 3>& parameters,
                          float scale, int32_t zero, bool is_signed, float out_scale,
                          int32_t out_zero, bool out_signed, uintptr_t table) {
    const double values[3] = {parameters[0], parameters[1], parameters[2]};
    unary_table(name, values, {scale, zero}, is_signed, {out_scale, out_zero}, out_signed,
                pointer<uint8_t>(table, 256));
  });
  m.attr("SOFTMAX_TABLE_BYTES") = sizeof(SoftmaxTable);
  m.def("softmax_table", [](float scale, uintptr_t table) {
    softmax_table(scale, *pointer<SoftmaxTable>(table, sizeof(SoftmaxTable)));
  });
  m.def(
      "lookup",
      [](uintptr_t table, uintptr_t in, int64_t size, uintptr_t out) {
        lookup(pointer<const uint8_t>(table, 256), pointer<const void>(in, size), size,
               pointer<void>(out, size));
      },
      Release());
  m.def(
      "scale_shift",
      [](const InputTuple& x, const LayoutTuple& shape, uintptr_t factor, uintptr_t offset,
         const OutputTuple& y) {
        const ChannelLayout l = layout(shape);
        scale_shift(input(x, size_of(l)), l, pointer<const double>(factor, l.channels),
                    pointer<const double>(offset, l.channels), output(y, size_of(l)));
      },
      Release());
  m.def(
      "prelu",
      [](const InputTuple& x, const LayoutTuple& shape, uintptr_t slope, const OutputTuple& y) {
        const ChannelLayout l = layout(shape);
        prelu(input(x, size_of(l)), l, pointer<const float>(slope, l.channels),
              output(y, size_of(l)));
      },
      Release());
  // Absent weights and biases are address 0.
  m.def(
      "layer_norm",
      [](const InputTuple& x, int64_t rows, int64_t columns, uintptr_t weight, uintptr_t bias,
         double eps, const OutputTuple& y) {
        const int64_t size = rows * columns;
        layer_norm(input(x, size), rows, columns, reinterpret_cast<const float*>(weight),
                   reinterpret_cast<const float*>(bias), eps, output(y, size));
      },
      Release());
  m.def(
      "group_norm",
      [](const InputTuple& x, const LayoutTuple& shape, int64_t groups, uintptr_t weight,
         uintptr_t bias, double eps, const OutputTuple& y) {
        const ChannelLayout l = layout(shape);
        group_norm(input(x, size_of(l)), l, groups, reinterpret_cast<const float*>(weight),
                   reinterpret_cast<const float*>(bias), eps, output(y, size_of(l)));
      },
      Release());
  m.def(
      "softmax",
      [](const InputTuple& x, int64_t rows, int64_t size, uintptr_t table, const OutputTuple& y) {
        softmax(input(x, rows * size), rows, size,
                *pointer<const SoftmaxTable>(table, sizeof(SoftmaxTable)), output(y, rows * size));
      },
      Release());
}

}  // namespace octavo::bind
