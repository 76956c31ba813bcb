// Scaled dot-product attention.
#include "bind/bindings.h"
#include "bind/clock.h"
#include "ops/attention.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

// (address, is int8, scale, zero point, batch stride, head stride, token stride)
using HeadTuple = std::tuple<uintptr_t, bool, float, int32_t, ptrdiff_t, ptrdiff_t, ptrdiff_t>;
// (batch, heads, queries, keys, size, value size)
using ShapeTuple = std::tuple<int64_t, int64_t, int64_t, int64_t, int32_t, int32_t>;

HeadInput input(const HeadTuple& t, int64_t elements) {
  const auto& [address, is_signed, scale, zero, batch, head, token] = t;
  const void* const data = pointer<const void>(address, elements);
  return {data, {batch, head, token}, is_signed, {scale, zero}};
}

}  // namespace

void add_attention(py::module_& m) {
  m.def(
      "attention",
      [](const ShapeTuple& shape, const HeadTuple& q, const HeadTuple& k, const HeadTuple& v,
         float scale, const HeadTuple& out) {
        const auto& [batch, heads, queries, keys, size, value_size] = shape;
        const int64_t groups = batch * heads;
        const auto& [address, is_signed, out_scale, zero, out_batch, out_head, out_token] = out;
        void* const to = pointer<void>(address, groups * queries * value_size);
        attention({batch, heads, queries, keys, size, value_size},
                  input(q, groups * queries * size), input(k, groups * keys * size),
                  input(v, groups * keys * value_size), scale,
                  {to, {out_batch, out_head, out_token}, is_signed, {out_scale, zero}});
      },
      Release());
}

}  // namespace octavo::bind
