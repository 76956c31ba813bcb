#include "bind/bindings.h"
#include "bind/clock.h"
#include "ops/elementwise.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

Storage storage(int code) {
  if (code < 0 || code > 2)
    throw std::invalid_argument("storage code must be 0 (uint8), 1 (int8) or 2 (int32)");
  return static_cast<Storage>(code);
}

}  // namespace

void add_elementwise(py::module_& m) {
  m.def(
      "quantize",
      [](uintptr_t x, int64_t size, float scale, int32_t zero, int32_t lo, int32_t hi, int type,
         uintptr_t q) {
        quantize(pointer<const float>(x, size), size, {scale, zero}, {lo, hi}, storage(type),
                 pointer<void>(q, size));
      },
      Release());
  m.def(
      "quantize_per_channel",
      [](uintptr_t x, int64_t outer, int64_t channels, int64_t inner, uintptr_t scales,
         uintptr_t zeros, int32_t lo, int32_t hi, int type, uintptr_t q) {
        quantize_per_channel(pointer<const float>(x, outer * channels * inner), outer, channels,
                             inner, pointer<const float>(scales, channels),
                             pointer<const int32_t>(zeros, channels), {lo, hi}, storage(type),
                             pointer<void>(q, outer * channels * inner));
      },
      Release());
  m.def(
      "dequantize",
      [](uintptr_t q, int64_t size, float scale, int32_t zero, int type, uintptr_t x) {
        dequantize(pointer<const void>(q, size), size, {scale, zero}, storage(type),
                   pointer<float>(x, size));
      },
      Release());
  m.def(
      "dequantize_per_channel",
      [](uintptr_t q, int64_t outer, int64_t channels, int64_t inner, uintptr_t scales,
         uintptr_t zeros, int type, uintptr_t x) {
        dequantize_per_channel(pointer<const void>(q, outer * channels * inner), outer, channels,
                               inner, pointer<const float>(scales, channels),
                               pointer<const int32_t>(zeros, channels), storage(type),
                               pointer<float>(x, outer * channels * inner));
      },
      Release());
  m.def(
      "requantize",
      [](uintptr_t q, int64_t size, float scale, int32_t zero, bool in_signed, float out_scale,
         int32_t out_zero, bool out_signed, int32_t lo, int32_t hi, uintptr_t out) {
        requantize(pointer<const void>(q, size), size, {scale, zero}, in_signed,
                   {out_scale, out_zero}, out_signed, {lo, hi}, pointer<void>(out, size));
      },
      Release());
  const auto binary = [&m](const char* name, auto op) {
    m.def(
        name,
        [op](uintptr_t a, float a_scale, int32_t a_zero, uintptr_t b, float b_scale, int32_t b_zero,
             int64_t size, bool is_signed, float out_scale, int32_t out_zero, bool relu,
             uintptr_t out) {
          op(pointer<const void>(a, size), QParams{a_scale, a_zero}, pointer<const void>(b, size),
             QParams{b_scale, b_zero}, size, is_signed, QParams{out_scale, out_zero}, relu,
             pointer<void>(out, size));
        },
        Release());
  };
  binary("add", add);
  binary("mul", mul);
  m.def(
      "clamp",
      [](uintptr_t q, int64_t size, bool is_signed, int32_t lo, int32_t hi, uintptr_t out) {
        clamp(pointer<const void>(q, size), size, is_signed, {lo, hi}, pointer<void>(out, size));
      },
      Release());
}

}  // namespace octavo::bind
