#include "ops/dynamic_conv.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <limits>
#include <stdexcept>
#include <string>

#include "abi/half.h"
#include "ops/quantize_images.h"
#include "ops/row_runs.h"
#include "parallel/parallel.h"

namespace octavo {
namespace {

OutKind out_kind(FloatType type) {
  switch (type) {
    case FloatType::kF32:
      return OutKind::kF32;
    case FloatType::kBF16:
      return OutKind::kBF16;
    case FloatType::kF16:
      return OutKind::kF16;
  }
  throw std::logic_error("unknown float type");
}

void fill_nan(FloatType type, int64_t size, void* out) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  if (type == FloatType::kF32) {
    std::fill_n(static_cast<float*>(out), size, nan);
  } else {
    const uint16_t half = type == FloatType::kBF16 ? float_to_bf16(nan) : float_to_f16(nan);
    std::fill_n(static_cast<uint16_t*>(out), size, half);
  }
}

// The first exception of some tasks, which must not throw, until they are done.
class FirstError {
 public:
  template <typename Body>
  void guard(Body body) noexcept {
    try {
      body();
    } catch (...) {
      if (!taken_.test_and_set()) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic_flag taken_;
  std::exception_ptr error_;
};

// What becomes of a quantized image: a convolution, transposed or not.
struct ImageLayer {
  int32_t in_channels;
  int64_t outputs, cost;  // of one image
};

// One call: what its images share. `Run` computes layer(image, qparams, output, out).
template <typename Run>
class DynamicImages {
 public:
  DynamicImages(const ImageLayer& layer, const FloatImages& x, const DynamicSpec& spec, void* out,
                const Run& run)
      : layer_(layer), x_(x), spec_(spec), out_(static_cast<char*>(out)), run_(run) {
    if (spec.per_tensor) shared_ = range_of_images(x, 0, x.batch, fns_);
  }

  // Images side by side leave no thread waiting at the ends of parallel regions, where their number
  // comes out even; an image after the other needs the memory of one only.
  bool images_in_parallel() const {
    const int threads = max_threads();
    if (threads == 1 || x_.batch == 1) return false;
    return x_.batch % threads == 0 || x_.batch >= 4 * threads ||
           layer_.cost < threads * kSerialGrain;
  }

  void operator()(int64_t index) const {
    void* const out = out_ + index * layer_.outputs * static_cast<int64_t>(element_size(kind_));
    const FloatRange range = spec_.per_tensor ? shared_ : range_of_images(x_, index, 1, fns_);
    if (!std::isfinite(range.lo) || !std::isfinite(range.hi)) {
      fill_nan(x_.type, layer_.outputs, out);
      return;
    }
    const QParams q = choose_qparams(range.lo, range.hi, spec_.reduce_range, spec_.per_tensor);
    AlignedBuffer bytes(x_.pixels() * x_.channels);
    const int32_t hi = spec_.reduce_range ? 127 : 255;
    quantize_image(x_, index, {1.0f / q.scale, q.zero_point, hi}, fns_, bytes.data());
    const ptrdiff_t row = x_.size[2] * x_.channels, plane = x_.size[1] * row;
    const ImageView image{
        bytes.data(), 1, x_.size, x_.channels, x_.size[0] * plane, {plane, row, x_.channels},
        false};
    run_(image, q, OutputSpec{kind_, {}, spec_.relu, {}, spec_.gelu}, out);
  }

 private:
  const ImageLayer& layer_;
  const FloatImages& x_;
  const DynamicSpec& spec_;
  char* const out_;
  const Run& run_;
  const ElementwiseFns& fns_ = cpu::kernels().elementwise;
  const OutKind kind_ = out_kind(x_.type);
  FloatRange shared_;
};

template <typename Run>
void run_images(const ImageLayer& layer, const FloatImages& x, const DynamicSpec& spec, void* out,
                const Run& run) {
  if (x.channels != layer.in_channels) {
    throw std::invalid_argument("input: expected " + std::to_string(layer.in_channels) +
                                " channels, got " + std::to_string(x.channels));
  }
  if (x.batch == 0) return;
  const DynamicImages images(layer, x, spec, out, run);
  if (images.images_in_parallel()) {
    FirstError error;
    parallel_for(x.batch, layer.cost * x.batch,
                 [&](int64_t index) { error.guard([&] { images(index); }); });
    error.rethrow();
  } else {
    for (int64_t index = 0; index < x.batch; ++index) images(index);
  }
}

}  // namespace

void dynamic_conv(const ConvWeight& weight, const FloatImages& x, const DynamicSpec& spec,
                  void* out) {
  int64_t pixels = 1;
  for (int d = 0; d < 3; ++d) pixels *= weight.geometry().output_size(d, x.size[d]);
  const ImageLayer layer{weight.in_channels(), pixels * weight.weight().channels(),
                         pixels * weight.weight().shape().elements()};
  run_images(layer, x, spec, out,
             [&](const ImageView& image, QParams q, const OutputSpec& output, void* to) {
               conv(weight, image, q, output, {}, to);
             });
}

void dynamic_conv_transpose(const ConvTransposeWeight& weight, const FloatImages& x,
                            const Spatial& output_padding, const DynamicSpec& spec, void* out) {
  int64_t pixels = 1;
  for (int d = 0; d < 3; ++d)
    pixels *= weight.geometry().output_size(d, x.size[d]) + output_padding[d];
  const ImageLayer layer{weight.in_channels(), pixels * weight.out_channels(),
                         x.pixels() * weight.elements()};
  run_images(layer, x, spec, out,
             [&](const ImageView& image, QParams q, const OutputSpec& output, void* to) {
               conv_transpose(weight, image, output_padding, q, output, to);
             });
}

}  // namespace octavo
