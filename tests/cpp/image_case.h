// A random 8-bit image, dense for the reference and spread out for the drivers: pixels, rows,
// planes and images lie further apart than they need to, as in a view of some channels of a larger
// image.
#pragma once

#include <cstring>

#include "ops/conv.h"
#include "ref/reference.h"
#include "support.h"

namespace octavo::testing {

class ImageCase {
 public:
  ImageCase(Random& random, int64_t batch, const std::array<int64_t, 3>& size, int32_t channels,
            bool is_signed)
      : dense_(batch * size[0] * size[1] * size[2] * channels),
        reference{{dense_.data(), is_signed}, batch, size, channels} {
    random.fill(dense_.data(), dense_.size());
    view = {nullptr, batch, size, channels, 0, {}, is_signed};
    const bool spread = random.chance(2);
    const auto gap = [&] { return spread ? random.integer(0, 9) : 0; };
    view.stride[2] = channels + gap();
    view.stride[1] = view.stride[2] * size[2] + gap();
    view.stride[0] = view.stride[1] * size[1] + gap();
    view.batch_stride = view.stride[0] * size[0] + gap();
    spread_.resize(batch * view.batch_stride + 1);
    random.fill(spread_.data(), spread_.size());
    view.data = spread_.data();
    int64_t from = 0;
    for (int64_t n = 0; n < batch; ++n) {
      for (int64_t d = 0; d < size[0]; ++d) {
        for (int64_t h = 0; h < size[1]; ++h) {
          for (int64_t w = 0; w < size[2]; ++w, from += channels) {
            std::memcpy(spread_.data() + n * view.batch_stride + d * view.stride[0] +
                            h * view.stride[1] + w * view.stride[2],
                        dense_.data() + from, channels);
          }
        }
      }
    }
  }
  ImageCase(const ImageCase&) = delete;
  ImageCase& operator=(const ImageCase&) = delete;

  bool is_signed() const { return view.is_signed; }

 private:
  std::vector<uint8_t> dense_, spread_;

 public:
  ref::Image reference;
  ImageView view;
};

inline int32_t random_zero_point(Random& random, bool is_signed) {
  return random.byte() - (is_signed ? 128 : 0);
}

inline std::string size_text(const std::array<int64_t, 3>& size) {
  return std::to_string(size[0]) + "x" + std::to_string(size[1]) + "x" + std::to_string(size[2]);
}

}  // namespace octavo::testing
