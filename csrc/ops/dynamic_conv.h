// Dynamic quantized convolution, transposed or not: float in, float out, images quantized on the
// way.
#pragma once

#include "ops/conv.h"
#include "ops/conv_transpose.h"
#include "ops/dynamic_linear.h"

namespace octavo {

// A dense batch of float images in memory that somebody else owns: [batch][sizes...][channels], or
// [batch][channels][sizes...] where not `channels_last`.
struct FloatImages {
  const void* data;
  FloatType type;
  int64_t batch;
  std::array<int64_t, 3> size;  // (depth, height, width)
  int32_t channels;
  bool channels_last;

  int64_t pixels() const { return size[0] * size[1] * size[2]; }
};

// Writes the dense channels-last convolution of the quantized images, in x's type: what conv()
// gives for them with a float output.
//
// Each image has its own qparams, so that no image changes another; with per_tensor all share those
// of x as a whole, which is what torch.ao's dynamic convolutions do. An image (with per_tensor: an
// x) that holds a NaN or an infinity gives NaN in all its outputs.
//
// Memory: one byte for each element of the images in work, at most one for each thread, besides
// what conv() takes.
//
// Throws std::invalid_argument for a number of channels that is not the weight's.
void dynamic_conv(const ConvWeight& weight, const FloatImages& x, const DynamicSpec& spec,
                  void* out);

// The same for what conv_transpose() gives.
void dynamic_conv_transpose(const ConvTransposeWeight& weight, const FloatImages& x,
                            const Spatial& output_padding, const DynamicSpec& spec, void* out);

}  // namespace octavo
