// Quantized transposed convolution on channels-last activations, 1 to 3 spatial dimensions.
#pragma once

#include <vector>

#include "ops/conv.h"

namespace octavo {

struct ConvTransposeGeometry {
  Spatial kernel{1, 1, 1};
  Spatial stride{1, 1, 1};
  Spatial padding{0, 0, 0};  // cut off both ends of the output
  Spatial dilation{1, 1, 1};

  int32_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  // Output size, to which a call may add some behind; <= 0 where the padding cuts off all of it.
  int64_t output_size(int dim, int64_t input) const;
};

// Output pixels of a transposed convolution whose coordinates leave the same remainders modulo the
// stride are a phase. The outputs of a phase are those of an ordinary convolution of stride 1,
// whose kernel is the taps that meet the phase: no zeros are multiplied. Phases that read the same
// windows make up a set; where window kernels compute them, each is a set of its own.
struct PhaseSet {
  ConvGeometry window;          // stride 1; a negative padding crops the image
  std::vector<Spatial> phases;  // the first output pixel of each
  std::vector<int32_t> tap;     // [phases][window.taps()]: the tap of the layer's kernel
  // The phases as further groups, in the order [packed groups][phases].
  std::unique_ptr<QuantizedWeight> weight;
};

// Plain weights are int8 [groups][k][n][taps], n and k per group, taps in (depth, height, width)
// order: torch's [in, out / groups, *kernel].
class ConvTransposeWeight {
 public:
  // Throws as QuantizedWeight does, and for kernel, stride or dilation below 1, padding below 0 or
  // a kernel that reaches over 2^30 pixels.
  ConvTransposeWeight(const int8_t* weights, int32_t groups, int32_t n, int32_t k,
                      const ConvTransposeGeometry& geometry, const WeightParams& params);
  const ConvTransposeGeometry& geometry() const { return geometry_; }
  // Groups of the packed weights. Of small ones that window kernels do not take, as many make one
  // as fill a vector of output channels, and multiply the others' inputs by nothing.
  int32_t packed_groups() const { return groups_ / merged_; }
  int32_t in_channels() const { return groups_ * k_; }
  int32_t out_channels() const { return groups_ * n_; }
  int64_t elements() const { return int64_t{groups_} * n_ * k_ * geometry_.taps(); }
  void unpack(int8_t* weights) const;
  int64_t packed_bytes() const;

  const std::vector<PhaseSet>& phase_sets() const { return sets_; }
  // Whether the phase of an output coordinate has taps.
  bool is_met(int dim, int64_t out) const;
  // Gives the outputs of pixels that no tap meets; null where there are none.
  const QuantizedWeight* bias_only() const { return bias_only_.get(); }

 private:
  void pack(const int8_t* weights, const WeightParams& params, PhaseSet& set) const;
  WeightShape packed_shape(const PhaseSet& set) const;
  template <typename Visit>
  void for_each_element(const PhaseSet& set, Visit visit) const;

  int32_t groups_, n_, k_;
  bool window_;     // for the window kernels (ops/window_conv.h)
  int32_t merged_;  // groups in a packed one
  ConvTransposeGeometry geometry_;
  std::array<std::vector<int32_t>, 3> met_;  // sorted: phases with taps
  std::vector<PhaseSet> sets_;
  std::unique_ptr<QuantizedWeight> bias_only_;
};

// Writes the dense channels-last output [batch, sizes..., groups * n], the sizes those of the
// geometry plus `output_padding`. Throws std::invalid_argument for output paddings below 0.
void conv_transpose(const ConvTransposeWeight& weight, const ImageView& x,
                    const Spatial& output_padding, QParams input, const OutputSpec& output,
                    void* out);

}  // namespace octavo
