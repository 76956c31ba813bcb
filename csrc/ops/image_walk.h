// Output pixels of a convolution or pooling, and the input pixels under their windows.
#pragma once

#include <algorithm>

#include "ops/conv.h"

namespace octavo {

// Position of one output pixel: batch index and (depth, height, width).
struct OutputPixel {
  int64_t batch = 0;
  std::array<int64_t, 3> at{0, 0, 0};
};

class WindowWalk {
 public:
  WindowWalk(const ImageView& image, const ConvGeometry& geometry,
             const std::array<int64_t, 3>& output_size)
      : image_(image), geometry_(geometry), size_(output_size) {}

  int64_t pixels() const { return image_.batch * size_[0] * size_[1] * size_[2]; }
  int64_t size(int dim) const { return size_[dim]; }

  OutputPixel pixel(int64_t index) const {
    OutputPixel p;
    for (int d = 2; d >= 0; --d) {
      p.at[d] = index % size_[d];
      index /= size_[d];
    }
    p.batch = index;
    return p;
  }

  // Moves on by `count` pixels, which end no further than one past the last.
  void advance(OutputPixel& p, int64_t count) const {
    p.at[2] += count;
    if (p.at[2] < size_[2]) return;
    if (p.at[2] == size_[2]) {
      p.at[2] = 0;
      if (++p.at[1] < size_[1]) return;
      p.at[1] = 0;
      if (++p.at[0] < size_[0]) return;
      p.at[0] = 0;
      ++p.batch;
    } else {
      const int64_t line = (p.batch * size_[0] + p.at[0]) * size_[1] + p.at[1];
      p = pixel(line * size_[2] + p.at[2]);
    }
  }

  // First input coordinate of the window along a dimension; negative inside the padding.
  int64_t start(int dim, int64_t out) const {
    return out * geometry_.stride[dim] - geometry_.padding[dim];
  }

  bool inside(int dim, int64_t out) const {
    const int64_t first = start(dim, out);
    return first >= 0 &&
           first + int64_t{geometry_.kernel[dim] - 1} * geometry_.dilation[dim] < image_.size[dim];
  }
  bool inside(const OutputPixel& p) const {
    return inside(0, p.at[0]) && inside(1, p.at[1]) && inside(2, p.at[2]);
  }

  // [begin, end) of the output positions along a dimension whose windows lie inside the image.
  std::array<int64_t, 2> inside_range(int dim) const {
    const int64_t stride = geometry_.stride[dim], padding = geometry_.padding[dim];
    const int64_t span = int64_t{geometry_.kernel[dim] - 1} * geometry_.dilation[dim] + 1;
    const int64_t room = image_.size[dim] - span + padding;
    const int64_t begin = padding <= 0 ? 0 : (padding + stride - 1) / stride;
    return {begin, room < 0 ? 0 : std::min(size_[dim], room / stride + 1)};
  }

  // Address of the window's first tap; only valid to read where the window is inside.
  const uint8_t* origin(const OutputPixel& p) const {
    const uint8_t* base = static_cast<const uint8_t*>(image_.data) + p.batch * image_.batch_stride;
    ptrdiff_t offset = 0;
    for (int d = 0; d < 3; ++d) offset += start(d, p.at[d]) * image_.stride[d];
    return base + offset;
  }

  // Behind the image's last byte.
  const uint8_t* image_end() const {
    ptrdiff_t last = (image_.batch - 1) * image_.batch_stride;
    for (int d = 0; d < 3; ++d) last += (image_.size[d] - 1) * image_.stride[d];
    return static_cast<const uint8_t*>(image_.data) + last + image_.channels;
  }

  // Byte offset of each tap from the window's origin.
  void tap_offsets(ptrdiff_t* offsets) const {
    for_each_tap([&](int t, const Spatial& k) {
      ptrdiff_t offset = 0;
      for (int d = 0; d < 3; ++d)
        offset += ptrdiff_t{k[d]} * geometry_.dilation[d] * image_.stride[d];
      offsets[t] = offset;
    });
  }

  // Whether the taps of one kernel row are neighbours in memory, wherever the window lies inside
  // the image's width.
  bool has_contiguous_rows() const {
    return geometry_.dilation[2] == 1 && image_.stride[2] == image_.channels;
  }

  // Whether output pixel i reads input pixel i and nothing else, and the pixels are evenly spaced
  // in memory: then the image is a matrix as it lies.
  bool is_pointwise() const {
    for (int d = 0; d < 3; ++d) {
      if (geometry_.kernel[d] != 1 || geometry_.stride[d] != 1 || geometry_.padding[d] != 0 ||
          size_[d] != image_.size[d])
        return false;
    }
    const ptrdiff_t pitch = image_.stride[2], plane = image_.size[1] * image_.size[2] * pitch;
    const bool rows = image_.size[1] <= 1 || image_.stride[1] == image_.size[2] * pitch;
    const bool planes = image_.size[0] <= 1 || image_.stride[0] == plane;
    const bool images = image_.batch <= 1 || image_.batch_stride == image_.size[0] * plane;
    return rows && planes && images;
  }

  // The columns [first, last) of the kernel that lie inside the image's width, without dilation.
  struct Columns {
    int32_t first, last;
  };
  Columns columns_inside(const OutputPixel& p) const {
    const int64_t from = start(2, p.at[2]), kernel = geometry_.kernel[2];
    const int64_t first = std::clamp<int64_t>(-from, 0, kernel);
    const int64_t last = std::clamp<int64_t>(image_.size[2] - from, first, kernel);
    return {static_cast<int32_t>(first), static_cast<int32_t>(last)};
  }

  // The rows [first, last) of the kernel, along the height, that lie inside the image; none where
  // the window does not meet it.
  struct Rows {
    int32_t first, last;
  };
  Rows rows_inside(const OutputPixel& p) const {
    const int64_t from = start(1, p.at[1]), kernel = geometry_.kernel[1];
    const int64_t step = geometry_.dilation[1];
    const int64_t first = from >= 0 ? 0 : std::min((step - 1 - from) / step, kernel);
    const int64_t room = image_.size[1] - from;
    const int64_t last = room <= 0 ? first : std::clamp((room + step - 1) / step, first, kernel);
    return {static_cast<int32_t>(first), static_cast<int32_t>(last)};
  }

  // Calls visit(first tap of a kernel row, address of its input at column `first`, or nullptr where
  // the row lies outside the image).
  template <typename Visit>
  void for_each_row(const OutputPixel& p, int32_t first, Visit visit) const {
    const uint8_t* base = static_cast<const uint8_t*>(image_.data) + p.batch * image_.batch_stride +
                          (start(2, p.at[2]) + first) * image_.stride[2];
    int t = 0;
    for (int32_t kd = 0; kd < geometry_.kernel[0]; ++kd) {
      const int64_t d = start(0, p.at[0]) + int64_t{kd} * geometry_.dilation[0];
      for (int32_t kh = 0; kh < geometry_.kernel[1]; ++kh, t += geometry_.kernel[2]) {
        const int64_t h = start(1, p.at[1]) + int64_t{kh} * geometry_.dilation[1];
        const bool outside = d < 0 || d >= image_.size[0] || h < 0 || h >= image_.size[1];
        visit(t, outside ? nullptr : base + d * image_.stride[0] + h * image_.stride[1]);
      }
    }
  }

  // Calls visit(tap, address or nullptr where the tap lies outside the image).
  template <typename Visit>
  void for_each_input(const OutputPixel& p, Visit visit) const {
    const uint8_t* base = static_cast<const uint8_t*>(image_.data) + p.batch * image_.batch_stride;
    for_each_tap([&](int t, const Spatial& k) {
      ptrdiff_t offset = 0;
      for (int d = 0; d < 3; ++d) {
        const int64_t at = start(d, p.at[d]) + int64_t{k[d]} * geometry_.dilation[d];
        if (at < 0 || at >= image_.size[d]) return visit(t, static_cast<const uint8_t*>(nullptr));
        offset += at * image_.stride[d];
      }
      visit(t, base + offset);
    });
  }

 private:
  template <typename Visit>
  void for_each_tap(Visit visit) const {
    int t = 0;
    Spatial k;
    for (k[0] = 0; k[0] < geometry_.kernel[0]; ++k[0]) {
      for (k[1] = 0; k[1] < geometry_.kernel[1]; ++k[1]) {
        for (k[2] = 0; k[2] < geometry_.kernel[2]; ++k[2]) visit(t++, k);
      }
    }
  }

  const ImageView& image_;
  const ConvGeometry& geometry_;
  std::array<int64_t, 3> size_;
};

}  // namespace octavo
