#include <algorithm>
#include <numeric>

#include "abi/cell.h"
#include "ref/dynamic.h"

namespace octavo::ref {
namespace {

int gates(CellKind kind) { return kind == CellKind::kLstm ? 4 : kind == CellKind::kGru ? 3 : 1; }

// One unit's new h.
float unit(CellKind kind, const CellArgs& a, int64_t u) {
  const auto x = [&](int gate) { return a.input[gate * a.size + u]; };
  const auto h = [&](int gate) { return a.hidden[gate * a.size + u]; };
  switch (kind) {
    case CellKind::kLstm: {
      const float kept = cell_sigmoid(x(1) + h(1)) * a.c[u];
      const float added = cell_sigmoid(x(0) + h(0)) * cell_tanh(x(2) + h(2));
      a.c[u] = kept + added;
      return cell_sigmoid(x(3) + h(3)) * cell_tanh(a.c[u]);
    }
    case CellKind::kGru: {
      const float reset = cell_sigmoid(x(0) + h(0)) * h(2);
      const float fresh = cell_tanh(x(2) + reset);
      const float change = (a.h[u] - fresh) * cell_sigmoid(x(1) + h(1));
      return change + fresh;
    }
    case CellKind::kRnnTanh:
      return cell_tanh(x(0) + h(0));
    case CellKind::kRnnRelu:
      return x(0) + h(0) < 0.0f ? 0.0f : x(0) + h(0);
  }
  return 0.0f;
}

}  // namespace

void cell_kernel(CellKind kind, const CellArgs& args) {
  for (int32_t u = 0; u < args.size; ++u) args.h[u] = unit(kind, args, u);
}

void recurrent(const Recurrent& net, const void* x, const std::vector<int64_t>& batch_sizes,
               const Dynamic& how, float* h, float* c, float* out) {
  const int64_t rows = std::accumulate(batch_sizes.begin(), batch_sizes.end(), int64_t{0});
  const int64_t width = net.hidden.n, size = width / gates(net.kind), outputs = net.hidden.k;
  const Dynamic floats{0, how.per_tensor, how.reduce_range};
  const std::vector<float> values = to_floats(x, rows * net.input.k, how.type);
  std::vector<float> input(rows * width),
      hidden(width * (batch_sizes.empty() ? 0 : batch_sizes[0]));
  dynamic_linear(net.input, values.data(), rows, floats, input.data());
  const int64_t steps = static_cast<int64_t>(batch_sizes.size());
  for (int64_t i = 0; i < steps; ++i) {
    const int64_t t = net.reverse ? steps - 1 - i : i, count = batch_sizes[t];
    const int64_t first = std::accumulate(batch_sizes.begin(), batch_sizes.begin() + t, int64_t{0});
    dynamic_linear(net.hidden, h, count, floats, hidden.data());
    std::vector<float> unprojected(count * size);
    for (int64_t r = 0; r < count; ++r) {
      float* to = net.project ? &unprojected[r * size] : h + r * size;
      cell_kernel(net.kind, {&input[(first + r) * width], &hidden[r * width],
                             c ? c + r * size : nullptr, to, static_cast<int32_t>(size)});
    }
    if (net.project) dynamic_linear(*net.project, unprojected.data(), count, floats, h);
    std::copy(h, h + count * outputs, out + first * outputs);
  }
}

}  // namespace octavo::ref
