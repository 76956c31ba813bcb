// Recurrent cells in plain C++: abi/cell.h, unit by unit.
#pragma once

#include "abi/cell.h"
#include "abi/kernel_abi.h"

namespace octavo {
namespace {

static void lstm_portable(const CellArgs* args) {
  const CellArgs& a = *args;
  const int32_t n = a.size;
  for (int32_t u = 0; u < n; ++u) {
    const float i = cell_sigmoid(a.input[u] + a.hidden[u]);
    const float f = cell_sigmoid(a.input[n + u] + a.hidden[n + u]);
    const float g = cell_tanh(a.input[2 * n + u] + a.hidden[2 * n + u]);
    const float o = cell_sigmoid(a.input[3 * n + u] + a.hidden[3 * n + u]);
    const float kept = f * a.c[u], added = i * g;
    const float c = kept + added;
    a.c[u] = c;
    a.h[u] = o * cell_tanh(c);
  }
}

static void gru_portable(const CellArgs* args) {
  const CellArgs& a = *args;
  const int32_t n = a.size;
  for (int32_t u = 0; u < n; ++u) {
    const float r = cell_sigmoid(a.input[u] + a.hidden[u]);
    const float z = cell_sigmoid(a.input[n + u] + a.hidden[n + u]);
    const float reset = r * a.hidden[2 * n + u];
    const float fresh = cell_tanh(a.input[2 * n + u] + reset);
    const float change = (a.h[u] - fresh) * z;
    a.h[u] = change + fresh;
  }
}

template <bool kRelu>
void rnn_portable(const CellArgs* args) {
  const CellArgs& a = *args;
  for (int32_t u = 0; u < a.size; ++u) {
    const float x = a.input[u] + a.hidden[u];
    a.h[u] = kRelu ? (0.0f > x ? 0.0f : x) : cell_tanh(x);
  }
}

}  // namespace
}  // namespace octavo
