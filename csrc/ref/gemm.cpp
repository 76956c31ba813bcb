#include <algorithm>
#include <limits>
#include <vector>

#include "abi/out_kind.h"
#include "abi/requantize.h"
#include "ref/layer.h"

namespace octavo::ref {

void store_byte(void* data, int64_t i, bool is_signed, int32_t value) {
  if (is_signed) {
    static_cast<int8_t*>(data)[i] = static_cast<int8_t>(value);
  } else {
    static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(value);
  }
}

void accumulate(const Tile& tile, int64_t* acc) {
  for (int32_t r = 0; r < tile.m; ++r) {
    for (int32_t c = 0; c < tile.n; ++c) {
      int64_t sum = 0;
      for (int32_t t = 0; t < tile.taps; ++t) {
        const Bytes row{tile.a + r * tile.a_stride + tile.tap[t], tile.a_signed};
        const int8_t* w = tile.w + (int64_t{c} * tile.taps + t) * tile.k;
        for (int32_t k = 0; k < tile.k; ++k) sum += row.at(k) * w[k];
      }
      acc[int64_t{r} * tile.n + c] = sum;
    }
  }
}

void store_tile(OutKind kind, const int64_t* acc, int32_t m, int32_t n, const Epilogue& epilogue,
                int32_t m0, int32_t n0, void* out, ptrdiff_t out_stride) {
  for (int32_t r = 0; r < m; ++r) {
    char* row = static_cast<char*>(out) + r * out_stride;
    for (int32_t c = 0; c < n; ++c) {
      const int64_t sum = acc[int64_t{r} * n + c] + epilogue.acc_init[n0 + c];
      store_output(kind, static_cast<uint32_t>(sum), epilogue, m0 + r, n0 + c, row, c);
    }
  }
}

ChannelEpilogue::ChannelEpilogue(const Layer& layer, Affine input, const Output& output,
                                 const Residual& residual)
    : kind_(output.kind) {
  const int32_t channels = layer.channels();
  mult_.resize(channels);
  bias_.resize(channels);
  const bool requantized = output.kind == OutKind::kU8 || output.kind == OutKind::kS8;
  for (int32_t c = 0; c < channels; ++c) {
    const float scale = input.scale * layer.scale[c];
    const float bias = layer.bias ? layer.bias[c] : 0.0f;
    mult_[c] = requantized ? scale / output.qparams.scale : scale;
    bias_[c] = requantized ? bias / scale : bias;
  }
  epilogue_.mult = mult_.data();
  epilogue_.bias = bias_.data();
  const float inf = std::numeric_limits<float>::infinity();
  const int32_t qmin = output.kind == OutKind::kS8 ? -128 : 0;
  epilogue_.lo = requantized ? static_cast<float>(qmin - output.qparams.zero_point) : -inf;
  epilogue_.hi = requantized ? static_cast<float>(qmin + 255 - output.qparams.zero_point) : inf;
  if (output.relu) epilogue_.lo = 0.0f;
  epilogue_.gelu = output.gelu;
  // A bound of a quantized output is quantized as a value is.
  const auto bound = [&](float real) {
    return requantized ? static_cast<float>(quantize(real, output.qparams, qmin, qmin + 255) -
                                            output.qparams.zero_point)
                       : real;
  };
  if (output.clamp_lo != -inf) epilogue_.lo = std::max(epilogue_.lo, bound(output.clamp_lo));
  if (output.clamp_hi != inf) epilogue_.hi = std::min(epilogue_.hi, bound(output.clamp_hi));
  epilogue_.out_zero = requantized ? output.qparams.zero_point : 0;
  if (residual.bytes.data) {
    epilogue_.add = residual.bytes.data;
    epilogue_.add_stride = channels;
    epilogue_.add_scale = residual.qparams.scale / output.qparams.scale;
    epilogue_.add_zero = residual.qparams.zero_point;
    epilogue_.add_signed = residual.bytes.is_signed;
  }
}

void ChannelEpilogue::store(int64_t acc, int64_t row, int32_t channel, void* out) const {
  const int64_t size = kind_bytes(kind_);
  char* out_row = static_cast<char*>(out) + row * static_cast<int64_t>(mult_.size()) * size;
  store_output(kind_, static_cast<uint32_t>(acc), epilogue_, static_cast<int32_t>(row), channel,
               out_row, channel);
}

void linear(const Layer& layer, Bytes x, int64_t rows, Affine input, const Output& output,
            const Residual& residual, void* out) {
  const ChannelEpilogue epilogue(layer, input, output, residual);
  const int64_t row_length = int64_t{layer.groups} * layer.k;
  for (int64_t r = 0; r < rows; ++r) {
    for (int32_t c = 0; c < layer.channels(); ++c) {
      const int64_t from = r * row_length + int64_t{c / layer.n} * layer.k;
      const int8_t* w = layer.weights + int64_t{c} * layer.k;
      int64_t acc = 0;
      for (int32_t k = 0; k < layer.k; ++k) {
        acc += (x.at(from + k) - input.zero_point) * (w[k] - layer.zero_point[c]);
      }
      epilogue.store(acc, r, c, out);
    }
  }
}

}  // namespace octavo::ref
