#include "bind/bindings.h"
#include "bind/clock.h"
#include "bind/weight_arguments.h"
#include "ops/recurrent.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

void run_recurrent(int kind, const QuantizedWeight& input, const QuantizedWeight& hidden,
                   const QuantizedWeight* project, uintptr_t x, int type, int64_t rows,
                   int64_t steps, int64_t batch, uintptr_t batch_sizes, bool per_tensor,
                   bool reduce_range, bool reverse, uintptr_t h, uintptr_t c, uintptr_t out,
                   ptrdiff_t out_stride) {
  if (kind < 0 || kind >= kCellKinds) throw std::invalid_argument("cell kind must be 0 .. 3");
  const RecurrentLayer layer{static_cast<CellKind>(kind), &input, &hidden, project};
  const int32_t columns = input.shape().k;
  const FloatView view{pointer<const void>(x, rows * columns), float_type(type), rows, columns,
                       columns};
  const Sequences sequences{steps, batch, reinterpret_cast<const int64_t*>(batch_sizes)};
  const RecurrentState state{pointer<float>(h, batch * layer.outputs()),
                             reinterpret_cast<float*>(c)};
  recurrent(layer, view, sequences, {per_tensor, reduce_range}, reverse, state,
            reinterpret_cast<float*>(out), out_stride);
}

}  // namespace

void add_recurrent(py::module_& m) { m.def("recurrent", &run_recurrent, Release()); }

}  // namespace octavo::bind
