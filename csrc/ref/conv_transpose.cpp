#include <algorithm>

#include "ref/layer.h"

namespace octavo::ref {

int64_t TransposedWindow::output_size(int dim, int64_t input) const {
  const int64_t last = (input - 1) * stride[dim] + int64_t{dilation[dim]} * (kernel[dim] - 1);
  return last + 1 - 2 * int64_t{padding[dim]} + output_padding[dim];
}

namespace {

using Size = std::array<int64_t, 3>;

// Adds what one input pixel contributes to the sums, [sizes...][channels].
void scatter(const Layer& layer, const Image& x, const TransposedWindow& window, int32_t input_zero,
             int64_t batch, const Size& at, const Size& size, std::vector<int64_t>& sums) {
  const int64_t from = x.index(batch, at[0], at[1], at[2]);
  int32_t tap = 0;
  std::array<int32_t, 3> t;
  for (t[0] = 0; t[0] < window.kernel[0]; ++t[0]) {
    for (t[1] = 0; t[1] < window.kernel[1]; ++t[1]) {
      for (t[2] = 0; t[2] < window.kernel[2]; ++t[2], ++tap) {
        int64_t to = 0;
        bool inside = true;
        for (int d = 0; d < 3; ++d) {
          const int64_t o =
              at[d] * window.stride[d] + int64_t{t[d]} * window.dilation[d] - window.padding[d];
          inside = inside && o >= 0 && o < size[d];
          to = to * size[d] + o;
        }
        if (!inside) continue;
        for (int32_t c = 0; c < layer.channels(); ++c) {
          const int32_t group = c / layer.n;
          for (int32_t k = 0; k < layer.k; ++k) {
            const int64_t in = int64_t{group} * layer.k + k;
            const int64_t w = (in * layer.n + c % layer.n) * layer.taps + tap;
            sums[to * layer.channels() + c] += int64_t{x.bytes.at(from + in) - input_zero} *
                                               (layer.weights[w] - layer.zero_point[c]);
          }
        }
      }
    }
  }
}

}  // namespace

void conv_transpose(const Layer& layer, const Image& x, const TransposedWindow& window,
                    Affine input, const Output& output, void* out) {
  const ChannelEpilogue epilogue(layer, input, output, Residual{});
  Size size;
  for (int d = 0; d < 3; ++d) size[d] = std::max<int64_t>(0, window.output_size(d, x.size[d]));
  const int64_t pixels = size[0] * size[1] * size[2];
  std::vector<int64_t> sums(pixels * layer.channels());
  for (int64_t b = 0; b < x.batch; ++b) {
    std::fill(sums.begin(), sums.end(), 0);
    for (int64_t i = 0; i < x.size[0]; ++i) {
      for (int64_t j = 0; j < x.size[1]; ++j) {
        for (int64_t l = 0; l < x.size[2]; ++l)
          scatter(layer, x, window, input.zero_point, b, {i, j, l}, size, sums);
      }
    }
    for (int64_t p = 0; p < pixels; ++p) {
      for (int32_t c = 0; c < layer.channels(); ++c)
        epilogue.store(sums[p * layer.channels() + c], b * pixels + p, c, out);
    }
  }
}

}  // namespace octavo::ref
