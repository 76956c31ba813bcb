// A layer's weight with all that its epilogue needs: the object behind a quantized Linear or
// convolution.
#pragma once

#include <atomic>
#include <limits>
#include <memory>
#include <vector>

#include "abi/kernel_abi.h"
#include "ops/channel_params.h"
#include "pack/packed_weight.h"
#include "pack/packed_window.h"

namespace octavo {

// Scale and zero point of a per-tensor quantized tensor: value = (q - zero_point) * scale.
struct QParams {
  float scale = 1.0f;
  int32_t zero_point = 0;
};

// Bounds in real values. On a quantized output they are rounded to its grid, as values are that are
// quantized, so that the result is what a clamp of the stored output would give.
struct Clamp {
  float lo = -std::numeric_limits<float>::infinity();
  float hi = std::numeric_limits<float>::infinity();
};

// What becomes of the accumulator. `out` is read for kU8 and kS8 only; `gelu` is for floats only
// and comes before `relu`.
struct OutputSpec {
  OutKind kind = OutKind::kU8;
  QParams out;
  bool relu = false;
  Clamp clamp = {};  // after `relu`; int32 outputs take neither
  bool gelu = false;
};

// Weight qparams, per output channel: `scale` and `zero_point` hold one element for each of groups
// * n channels.
struct WeightParams {
  std::vector<float> scale;
  std::vector<int32_t> zero_point;
  std::vector<float> bias;  // empty: none
};

// Throws std::invalid_argument naming what is wrong: lengths, scales not positive and finite, zero
// points outside int8, a bias that is not finite, `depth` products that int32 cannot sum exactly
// with these zero points.
void check_weight_params(const WeightParams& params, int32_t channels, int64_t depth);

class QuantizedWeight {
 public:
  // Packs for the active ISA at once. `window` asks for the layout of the window kernels, which is
  // the same for every ISA (PackedWindow; no weight zero points). Throws std::invalid_argument as
  // check_weight_params() does, and for a depth that int32 cannot sum exactly.
  QuantizedWeight(const int8_t* weights, const WeightShape& shape, WeightParams params,
                  bool window);
  // A matrix that is multiplied with and forgotten, of the active ISA's format: without scales or
  // column sums, for drivers that set the epilogue themselves.
  explicit QuantizedWeight(std::shared_ptr<const PackedWeight> packed);
  ~QuantizedWeight();

  const WeightShape& shape() const { return shape_; }
  int32_t channels() const { return shape_.groups * shape_.n; }
  const WeightParams& params() const { return params_; }
  bool has_weight_zero_points() const { return has_zero_points_; }
  bool has_window_form() const { return window_ != nullptr; }

  // Weights in `format`. Packed at construction, and again when another ISA has been forced since.
  const PackedWeight& packed(PackFormat format) const;
  const PackedWindow& window() const { return *window_; }
  void unpack(int8_t* weights) const;
  int64_t packed_bytes() const;

  // [n] arrays for this input, output and activation offset (GemmKernel::a_offset). The latest
  // are kept, as a layer's qparams seldom change between calls. Throws std::invalid_argument where
  // a product or quotient of the scales is not a finite float32.
  ChannelParamsCache::Lease channel_params(QParams input, const OutputSpec& output,
                                           int32_t offset) const;

  // Padded to kChannelPad.
  const int32_t* col_sum() const { return col_sum_.as<int32_t>(); }
  const int32_t* zero_points() const { return padded_zero_points_.as<int32_t>(); }

 private:
  // One for each format ever asked for. Grows at the front and keeps all until the weight goes, so
  // that no reader needs a lock.
  struct Form {
    std::shared_ptr<const PackedWeight> packed;
    const Form* next;
  };
  const PackedWeight& add_form(std::shared_ptr<const PackedWeight> packed) const;
  void fill(const ChannelParamsKey& key, ChannelParams& params) const;
  void sum_columns(const int8_t* weights);

  WeightShape shape_;
  WeightParams params_;
  bool has_zero_points_ = false;
  AlignedBuffer col_sum_, padded_zero_points_;
  std::shared_ptr<const PackedWindow> window_;

  mutable std::atomic<const Form*> forms_{nullptr};
  mutable ChannelParamsCache channel_params_;
};

// The Epilogue of a call: qparams arrays, clamp and zero points in place; add, row_sum left null
// for the driver. Throws std::invalid_argument for a clamp whose bounds are NaN or out of order,
// and for GELU with an integer output.
Epilogue make_epilogue(const QuantizedWeight& weight, const ChannelParams& params,
                       const OutputSpec& output);

}  // namespace octavo
