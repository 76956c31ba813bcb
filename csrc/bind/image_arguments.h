// Images of 1 to 3 spatial dimensions as the direct entry points of convolutions read and make
// them.
#pragma once

#include <array>

#include "bind/tensor_access.h"
#include "ops/conv.h"

namespace octavo::bind {

// An ([N,] C, spatial...) tensor of `rank` spatial dimensions whose channels lie together, or
// (`planes`) one of contiguous planes, which the image describes as it will lie channels last;
// false for any other.
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

inline bool as_image(const TensorView& x, int32_t rank, int32_t channels, ImageView& image) {
  bool planes;
  return as_image(x, rank, channels, image, planes) && !planes;
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

// A dense channels-last output of `rank` spatial dimensions, the last of `size`, with a batch
// dimension or without, its memory to be made.
inline TensorView output_view(ElementType type, int32_t rank, int64_t batch, bool batched,
                              int64_t channels, const std::array<int64_t, 3>& size) {
  TensorView out{nullptr, type, rank + 1 + batched, {}, {}};
  const int c = batched, first_dim = 3 - rank;
  out.size[c] = channels;
  out.stride[c] = 1;
  int64_t dense = channels;
  for (int d = 2; d >= first_dim; --d) {
    const int at = c + 1 + d - first_dim;
    out.size[at] = size[d];
    out.stride[at] = dense;
    dense *= out.size[at];
  }
  if (batched) {
    out.size[0] = batch;
    out.stride[0] = dense;
  }
  return out;
}

}  // namespace octavo::bind
