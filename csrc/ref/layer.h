// Pieces that the reference linear and convolution share.
#pragma once

#include <vector>

#include "ref/reference.h"

namespace octavo::ref {

// Takes exact sums of (a - za) * (w - zw) to stored outputs.
class ChannelEpilogue {
 public:
  ChannelEpilogue(const Layer& layer, Affine input, const Output& output, const Residual& residual);
  ChannelEpilogue(const ChannelEpilogue&) = delete;
  ChannelEpilogue& operator=(const ChannelEpilogue&) = delete;
  // `row` is the output pixel; out is dense [rows][channels].
  void store(int64_t acc, int64_t row, int32_t channel, void* out) const;

 private:
  OutKind kind_;
  std::vector<float> mult_, bias_;
  Epilogue epilogue_{};
};

}  // namespace octavo::ref
