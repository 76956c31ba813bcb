// How a transposed convolution divides into ordinary ones, and its weight with it.
//
// Output o sums the taps t for which o + padding = i * stride + t * dilation, i being an input. So
// taps meet an output by t * dilation modulo the stride, which makes phases of outputs, and those
// that meet a phase are stride / gcd(stride, dilation) apart. From one of them to the one before it
// the input moves on by dilation / gcd; from one output of the phase to the next it moves by one.
#include <algorithm>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <tuple>

#include "ops/conv_transpose.h"
#include "ops/window_conv.h"

namespace octavo {
namespace {

constexpr int64_t kMaxReach = int64_t{1} << 30;

void check_geometry(const ConvTransposeGeometry& g) {
  const auto check = [](const char* name, const Spatial& values, int32_t least) {
    for (const int32_t v : values) {
      if (v >= least) continue;
      throw std::invalid_argument(std::string(name) + ": must be at least " +
                                  std::to_string(least) + ", got " + std::to_string(v));
    }
  };
  check("kernel_size", g.kernel, 1);
  check("stride", g.stride, 1);
  check("dilation", g.dilation, 1);
  check("padding", g.padding, 0);
  for (int d = 0; d < 3; ++d) {
    const int64_t reach = int64_t{g.dilation[d]} * (g.kernel[d] - 1);
    if (std::max<int64_t>(reach, g.padding[d]) + g.stride[d] > kMaxReach) {
      throw std::invalid_argument(
          "kernel_size, stride, dilation, padding: a kernel that reaches over 2^30 pixels");
    }
  }
}

// The windows of a phase along one dimension.
struct Windows {
  int32_t taps;
  int64_t start;  // of the first output's window
  auto operator<=>(const Windows&) const = default;
};

struct AxisPhase {
  int32_t first;     // its first output
  int32_t last_tap;  // the tap that reads the window's first input
};

struct Axis {
  std::map<Windows, std::vector<AxisPhase>> phases;  // those with taps, by their windows
  int32_t dilation;                                  // of the windows
  int32_t tap_step;                                  // from one tap of a phase to the next
};

Axis divide(const ConvTransposeGeometry& g, int dim) {
  const int64_t s = g.stride[dim], d = g.dilation[dim], p = g.padding[dim], k = g.kernel[dim];
  const int64_t gcd = std::gcd(s, d);
  Axis axis{{}, static_cast<int32_t>(d / gcd), static_cast<int32_t>(s / gcd)};
  // Each of the first tap_step taps is the first of a phase.
  for (int64_t tap = 0; tap < std::min<int64_t>(axis.tap_step, k); ++tap) {
    const int64_t first = ((tap * d - p) % s + s) % s;
    const int64_t taps = (k - 1 - tap) / axis.tap_step + 1;
    Windows windows{};
    windows.taps = static_cast<int32_t>(taps);
    windows.start = (first + p - tap * d) / s - (taps - 1) * axis.dilation;
    axis.phases[windows].push_back(
        {static_cast<int32_t>(first), static_cast<int32_t>(tap + (taps - 1) * axis.tap_step)});
  }
  // Phases of equal size, which the first ones are, follow one another.
  for (auto& [windows, phases] : axis.phases) {
    std::sort(phases.begin(), phases.end(),
              [](const AxisPhase& a, const AxisPhase& b) { return a.first < b.first; });
  }
  return axis;
}

using AxisPhases = std::pair<const Windows, std::vector<AxisPhase>>;

// The phases that combine the phases of three axes.
PhaseSet combine(const ConvTransposeGeometry& g, const std::array<Axis, 3>& axes,
                 const std::array<const AxisPhases*, 3>& chosen) {
  PhaseSet set;
  for (int d = 0; d < 3; ++d) {
    const Windows& windows = chosen[d]->first;
    set.window.kernel[d] = windows.taps;
    set.window.dilation[d] = axes[d].dilation;
    set.window.padding[d] = static_cast<int32_t>(-windows.start);
  }
  const Spatial& kernel = set.window.kernel;
  for (const AxisPhase& z : chosen[0]->second) {
    for (const AxisPhase& y : chosen[1]->second) {
      for (const AxisPhase& x : chosen[2]->second) {
        set.phases.push_back({z.first, y.first, x.first});
        for (int32_t i = 0; i < kernel[0]; ++i) {
          for (int32_t j = 0; j < kernel[1]; ++j) {
            for (int32_t l = 0; l < kernel[2]; ++l) {
              const int32_t plane = z.last_tap - i * axes[0].tap_step;
              const int32_t row = y.last_tap - j * axes[1].tap_step;
              const int32_t tap = x.last_tap - l * axes[2].tap_step;
              set.tap.push_back((plane * g.kernel[1] + row) * g.kernel[2] + tap);
            }
          }
        }
      }
    }
  }
  return set;
}

std::vector<PhaseSet> phase_sets(const ConvTransposeGeometry& g, const std::array<Axis, 3>& axes) {
  std::vector<PhaseSet> sets;
  for (const AxisPhases& z : axes[0].phases) {
    for (const AxisPhases& y : axes[1].phases) {
      for (const AxisPhases& x : axes[2].phases) sets.push_back(combine(g, axes, {&z, &y, &x}));
    }
  }
  return sets;
}

// A set for each phase.
std::vector<PhaseSet> separate(const std::vector<PhaseSet>& sets) {
  std::vector<PhaseSet> all;
  for (const PhaseSet& set : sets) {
    const auto taps = static_cast<ptrdiff_t>(set.window.taps());
    for (size_t p = 0; p < set.phases.size(); ++p) {
      const auto first = set.tap.begin() + static_cast<ptrdiff_t>(p) * taps;
      all.push_back({set.window, {set.phases[p]}, {first, first + taps}, nullptr});
    }
  }
  return all;
}

// How many groups to pack as one. Up to 32 output channels, zeros between the groups cost less than
// what gathering and calling for each of them alone does (64 channels in groups of 8: 294 us packed
// to 32, 508 to 16, 351 to 64); where the number of groups has no divisor that gives a few of them,
// more.
int32_t groups_to_merge(int32_t groups, int32_t n, int32_t k, int32_t taps) {
  constexpr int32_t kEnough = 32, kFew = 8, kMost = 128;  // output channels of a packed group
  constexpr int64_t kDeepest = 4096;  // products of an output; far from what int32 holds
  int32_t best = 1;
  for (int32_t m = 2; m <= groups && m * n <= kMost && int64_t{m} * k * taps <= kDeepest; ++m) {
    if (groups % m == 0 && (m * n <= kEnough || best * n < kFew)) best = m;
  }
  return best;
}

// Values of [groups][n] for [groups][phases][n].
template <typename T>
std::vector<T> repeat(const std::vector<T>& values, int32_t groups, size_t phases) {
  std::vector<T> all;
  if (values.empty()) return all;
  const ptrdiff_t n = static_cast<ptrdiff_t>(values.size()) / groups;
  all.reserve(values.size() * phases);
  for (int32_t g = 0; g < groups; ++g) {
    for (size_t p = 0; p < phases; ++p)
      all.insert(all.end(), values.begin() + g * n, values.begin() + (g + 1) * n);
  }
  return all;
}

}  // namespace

int64_t ConvTransposeGeometry::output_size(int dim, int64_t input) const {
  return (input - 1) * stride[dim] - 2 * int64_t{padding[dim]} +
         int64_t{dilation[dim]} * (kernel[dim] - 1) + 1;
}

ConvTransposeWeight::ConvTransposeWeight(const int8_t* weights, int32_t groups, int32_t n,
                                         int32_t k, const ConvTransposeGeometry& geometry,
                                         const WeightParams& params)
    : groups_(groups),
      n_(n),
      k_(k),
      window_(takes_window_kernels(groups, n, k, params)),
      merged_(1),
      geometry_(geometry) {
  check_geometry(geometry_);
  if (!window_) merged_ = groups_to_merge(groups, n, k, geometry_.taps());
  check_weight_params(params, groups * n, 1);
  std::array<Axis, 3> axes;
  bool all_met = true;
  for (int d = 0; d < 3; ++d) {
    axes[d] = divide(geometry_, d);
    for (const auto& [windows, phases] : axes[d].phases) {
      for (const AxisPhase& phase : phases) met_[d].push_back(phase.first);
    }
    std::sort(met_[d].begin(), met_[d].end());
    all_met = all_met && met_[d].size() == static_cast<size_t>(geometry_.stride[d]);
  }
  sets_ = octavo::phase_sets(geometry_, axes);
  if (window_) sets_ = separate(sets_);
  for (PhaseSet& set : sets_) pack(weights, params, set);
  if (!all_met) {
    const std::vector<int8_t> zeros(size_t(groups) * n, 0);
    bias_only_ = std::make_unique<QuantizedWeight>(zeros.data(), WeightShape{groups, n, 1, 1},
                                                   params, false);
  }
}

// Calls visit(element of the plain weight, element of the set's) for each, the set's being
// [packed groups][phases][merged][n][taps][merged][k].
template <typename Visit>
void ConvTransposeWeight::for_each_element(const PhaseSet& set, Visit visit) const {
  const int32_t taps = set.window.taps(), phases = static_cast<int32_t>(set.phases.size());
  const int64_t all_taps = geometry_.taps();
  for (int32_t g = 0; g < groups_; ++g) {
    for (int32_t p = 0; p < phases; ++p) {
      const int64_t first_row =
          (int64_t{g / merged_} * phases + p) * merged_ * n_ + int64_t{g % merged_} * n_;
      for (int32_t row = 0; row < n_; ++row) {
        for (int32_t t = 0; t < taps; ++t) {
          int64_t to = (((first_row + row) * taps + t) * merged_ + g % merged_) * k_;
          int64_t from = (int64_t{g} * k_ * n_ + row) * all_taps + set.tap[p * taps + t];
          for (int32_t i = 0; i < k_; ++i, from += n_ * all_taps) visit(from, to++);
        }
      }
    }
  }
}

WeightShape ConvTransposeWeight::packed_shape(const PhaseSet& set) const {
  const int32_t groups = packed_groups() * static_cast<int32_t>(set.phases.size());
  const int32_t n = merged_ * n_, k = merged_ * k_, taps = set.window.taps();
  // Where channels come in odd numbers every tap would end in a padded k group; then the window is
  // one tap.
  return k % 4 == 0 || window_ ? WeightShape{groups, n, taps, k}
                               : WeightShape{groups, n, 1, taps * k};
}

void ConvTransposeWeight::pack(const int8_t* weights, const WeightParams& params,
                               PhaseSet& set) const {
  const WeightShape shape = packed_shape(set);
  const int32_t packed = packed_groups();
  const WeightParams repeated{repeat(params.scale, packed, set.phases.size()),
                              repeat(params.zero_point, packed, set.phases.size()),
                              repeat(params.bias, packed, set.phases.size())};
  // Weights between merged groups stand for 0.
  std::vector<int8_t> own;
  own.reserve(shape.elements());
  for (const int32_t zero : repeated.zero_point)
    own.insert(own.end(), shape.depth(), static_cast<int8_t>(zero));
  for_each_element(set, [&](int64_t plain, int64_t at) { own[at] = weights[plain]; });
  set.weight = std::make_unique<QuantizedWeight>(own.data(), shape, repeated, window_);
}

void ConvTransposeWeight::unpack(int8_t* weights) const {
  for (const PhaseSet& set : sets_) {
    std::vector<int8_t> own(set.weight->shape().elements());
    set.weight->unpack(own.data());
    for_each_element(set, [&](int64_t plain, int64_t at) { weights[plain] = own[at]; });
  }
}

int64_t ConvTransposeWeight::packed_bytes() const {
  int64_t bytes = bias_only_ ? bias_only_->packed_bytes() : 0;
  for (const PhaseSet& set : sets_) bytes += set.weight->packed_bytes();
  return bytes;
}

bool ConvTransposeWeight::is_met(int dim, int64_t out) const {
  const auto phase = static_cast<int32_t>(out % geometry_.stride[dim]);
  return std::binary_search(met_[dim].begin(), met_[dim].end(), phase);
}

}  // namespace octavo
