#include "ref/layer.h"

namespace octavo::ref {

int64_t Window::output_size(int dim, int64_t input) const {
  const int64_t reach = int64_t{dilation[dim]} * (kernel[dim] - 1) + 1;
  const int64_t room = input + padding[dim] + padding_end[dim] - reach;
  return room < 0 ? 0 : room / stride[dim] + 1;
}

namespace {

bool inside(int64_t position, int64_t size) { return position >= 0 && position < size; }

// The exact sum at one output position; positions outside the image hold the zero point, so they
// add nothing.
int64_t sum_at(const Layer& layer, const Image& x, const Window& window, int32_t input_zero,
               int64_t batch, const std::array<int64_t, 3>& first, int32_t channel) {
  const int64_t from_channel = int64_t{channel / layer.n} * layer.k;
  const int8_t* w = layer.weights + int64_t{channel} * layer.taps * layer.k;
  int64_t acc = 0;
  for (int32_t i = 0; i < window.kernel[0]; ++i) {
    for (int32_t j = 0; j < window.kernel[1]; ++j) {
      for (int32_t l = 0; l < window.kernel[2]; ++l, w += layer.k) {
        const int64_t d = first[0] + int64_t{i} * window.dilation[0];
        const int64_t h = first[1] + int64_t{j} * window.dilation[1];
        const int64_t v = first[2] + int64_t{l} * window.dilation[2];
        if (!inside(d, x.size[0]) || !inside(h, x.size[1]) || !inside(v, x.size[2])) continue;
        const int64_t from = x.index(batch, d, h, v) + from_channel;
        for (int32_t k = 0; k < layer.k; ++k) {
          acc += (x.bytes.at(from + k) - input_zero) * (w[k] - layer.zero_point[channel]);
        }
      }
    }
  }
  return acc;
}

}  // namespace

void conv(const Layer& layer, const Image& x, const Window& window, Affine input,
          const Output& output, const Residual& residual, void* out) {
  const ChannelEpilogue epilogue(layer, input, output, residual);
  int64_t row = 0;
  for (int64_t b = 0; b < x.batch; ++b) {
    for (int64_t i = 0; i < window.output_size(0, x.size[0]); ++i) {
      for (int64_t j = 0; j < window.output_size(1, x.size[1]); ++j) {
        for (int64_t l = 0; l < window.output_size(2, x.size[2]); ++l, ++row) {
          const std::array<int64_t, 3> first = {i * window.stride[0] - window.padding[0],
                                                j * window.stride[1] - window.padding[1],
                                                l * window.stride[2] - window.padding[2]};
          for (int32_t c = 0; c < layer.channels(); ++c) {
            epilogue.store(sum_at(layer, x, window, input.zero_point, b, first, c), row, c, out);
          }
        }
      }
    }
  }
}

}  // namespace octavo::ref
