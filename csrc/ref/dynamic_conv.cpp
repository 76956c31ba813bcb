#include <cmath>
#include <limits>
#include <vector>

#include "ref/dynamic.h"

namespace octavo::ref {
namespace {

// The images as bytes, [batch][sizes...][channels], all with the same qparams.
std::vector<uint8_t> quantized(const float* x, const Image& shape, bool channels_last, Affine q,
                               int32_t hi) {
  const int64_t pixels = shape.size[0] * shape.size[1] * shape.size[2], c = shape.channels;
  std::vector<uint8_t> bytes(shape.batch * pixels * c);
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t i = 0; i < c; ++i) {
        const int64_t from = channels_last ? (b * pixels + p) * c + i : (b * c + i) * pixels + p;
        bytes[(b * pixels + p) * c + i] = static_cast<uint8_t>(quantize(x[from], q, 0, hi));
      }
    }
  }
  return bytes;
}

}  // namespace

void dynamic_conv(const Layer& layer, const Image& shape, const void* x, bool channels_last,
                  const Window& window, const Dynamic& how, void* out) {
  const int64_t image = shape.size[0] * shape.size[1] * shape.size[2] * shape.channels;
  int64_t outputs = layer.channels();
  for (int d = 0; d < 3; ++d) outputs *= window.output_size(d, shape.size[d]);
  const std::vector<float> values = to_floats(x, shape.batch * image, how.type);
  std::vector<float> result(outputs);
  for (int64_t b = 0; b < shape.batch; ++b) {
    const float* own = values.data() + b * image;
    const Affine q = how.per_tensor ? qparams_of(values.data(), shape.batch * image, how)
                                    : qparams_of(own, image, how);
    if (std::isnan(q.scale)) {
      result.assign(outputs, std::numeric_limits<float>::quiet_NaN());
    } else {
      Image one = shape;
      one.batch = 1;
      const std::vector<uint8_t> bytes =
          quantized(own, one, channels_last, q, how.reduce_range ? 127 : 255);
      one.bytes = {bytes.data(), false};
      Output output;
      output.kind = OutKind::kF32;
      output.relu = how.relu;
      output.gelu = how.gelu;
      conv(layer, one, window, q, output, {}, result.data());
    }
    for (int64_t i = 0; i < outputs; ++i) store_float(result[i], b * outputs + i, how.type, out);
  }
}

}  // namespace octavo::ref
