// Images of 1 to 3 spatial dimensions as the direct entry points of convolutions read and make
// them.
#pragma once

#include <array>

#include "bind/tensor_access.h"
#include "ops/channels_last.h"
#include "ops/dynamic_conv.h"

namespace octavo::bind {

// Sizes and strides of a dense channels-last tensor of `rank` spatial dimensions, the last of
// `size`, with a batch dimension or without, its memory to be made.
inline TensorView channels_last_view(ElementType type, int32_t rank, int64_t batch, bool batched,
                                     int64_t channels, const std::array<int64_t, 3>& size) {
  const int c = batched;
  TensorView view{nullptr, type, rank + 1 + c, {}, {}};
  view.size[c] = channels;
  view.stride[c] = 1;
  int64_t dense = channels;
  for (int d = 2, at = view.ndim - 1; at > c; --d, --at) {
    view.size[at] = size[d];
    view.stride[at] = dense;
    dense *= size[d];
  }
  if (batched) {
    view.size[0] = batch;
    view.stride[0] = dense;
  }
  return view;
}

// Whether a tensor has the sizes and strides of a view; strides of one element mean nothing.
inline bool same_layout(const TensorView& x, const TensorView& view) {
  if (x.ndim != view.ndim) return false;
  for (int d = 0; d < view.ndim; ++d) {
    if (x.size[d] != view.size[d]) return false;
    if (view.size[d] != 1 && x.stride[d] != view.stride[d]) return false;
  }
  return true;
}

// An ([N,] C, spatial...) tensor of `rank` spatial dimensions whose channels lie together, or one
// of contiguous `planes`, which the image describes as it will lie channels last (LaidOut); false
// for any other.
inline bool as_image(const TensorView& x, int32_t rank, int32_t channels, ImageView& image,
                     bool& planes) {
  const int32_t c = x.ndim - rank - 1;  // 0: no batch
  if ((c != 0 && c != 1) || x.size[c] != channels) return false;
  planes = channels != 1 && x.stride[c] != 1;
  if (planes && !x.is_contiguous()) return false;
  image = {x.data, 1, {1, 1, 1}, channels, 0, {0, 0, 0}, x.type == ElementType::kS8};
  // Strides of dimensions with one element mean nothing.
  ptrdiff_t dense = channels;
  for (int d = 2, at = x.ndim - 1; at > c; --d, --at) {
    image.size[d] = x.size[at];
    image.stride[d] = planes || x.size[at] == 1 ? dense : x.stride[at];
    dense = image.size[d] * image.stride[d];
  }
  if (c == 1) image.batch = x.size[0];
  image.batch_stride = planes || image.batch == 1 ? dense : x.stride[0];
  return true;
}

// Lays an image of planes out as it describes itself, for as long as this lives.
class LaidOut {
 public:
  LaidOut(ImageView& image, bool planes) {
    if (!planes) return;
    const int64_t pixels = image.size[0] * image.size[1] * image.size[2];
    bytes_ = AlignedBuffer(image.batch * pixels * image.channels);
    to_channels_last(image.data, image.batch, image.channels, pixels, bytes_.data());
    image.data = bytes_.data();
  }

 private:
  AlignedBuffer bytes_;
};

// A dense float tensor of ([N,] C, spatial...), in that order or channels last; false for any
// other.
inline bool as_float_images(const TensorView& x, int32_t rank, int32_t channels,
                            FloatImages& images) {
  const int32_t c = x.ndim - rank - 1;  // 0: no batch
  if (!is_float(x.type) || (c != 0 && c != 1) || x.size[c] != channels) return false;
  const int type = static_cast<int>(x.type) - static_cast<int>(ElementType::kF32);
  const int64_t batch = c == 1 ? x.size[0] : 1;
  images = {x.data, static_cast<FloatType>(type), batch, {1, 1, 1}, channels, false};
  for (int d = 2, at = x.ndim - 1; at > c; --d, --at) images.size[d] = x.size[at];
  images.channels_last =
      same_layout(x, channels_last_view(x.type, rank, batch, c == 1, channels, images.size));
  return images.channels_last || x.is_contiguous();
}

}  // namespace octavo::bind
