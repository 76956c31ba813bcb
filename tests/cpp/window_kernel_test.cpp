// Every window kernel of every ISA against the reference, to the bit, between guard pages.
#include <algorithm>
#include <limits>

#include "abi/out_kind.h"
#include "gemm_case.h"
#include "pack/packed_window.h"

namespace octavo::testing {
namespace {

struct WindowCase final : CaseDescriber {
  const WindowKernel* kernel;
  bool a_signed;
  OutKind kind;
  int32_t groups, n, k;
  int32_t taps, out_rows, pixels;
  Values values;
  int32_t residual;  // as EpilogueChoice::residual
  Side side;

  int32_t channels() const { return groups * n; }
  int32_t in_channels() const { return groups * k; }
  std::string describe() const override {
    const auto number = [](const char* name, int32_t value) {
      return std::string(" ") + name + "=" + std::to_string(value);
    };
    return std::string(kernel->name) + (a_signed ? " s8" : " u8") + "->" + kind_name(kind) +
           number("groups", groups) + number("n", n) + number("k", k) + number("taps", taps) +
           number("out_rows", out_rows) + number("pixels", pixels) + number("residual", residual) +
           (values == Values::kCorners ? " corners" : "") +
           (side == Side::kEnd ? " guard behind" : " guard before");
  }
};

constexpr int32_t kMaxPixels = kWindowPixels /* for any window */, kMaxTaps = 130;

struct Memory {
  GuardBuffer rows{kMaxPixels * kMaxTaps * sizeof(void*)}, padding{4096};
  GuardBuffer w{1 << 20}, out{1 << 20};
  GuardRows input{kMaxPixels * kMaxTaps};
  GuardBuffer acc_init{8192}, mult{8192}, bias{8192}, residual{1 << 17};
};
Memory& memory() {
  static Memory once;
  return once;
}

// One call's input, weights and epilogue.
class WindowProblem {
 public:
  WindowProblem(Random& random, const WindowCase& c) : case_(c), random_(random) {
    args_.taps = c.taps;
    args_.out_rows = c.out_rows;
    args_.pixels = c.pixels;
    args_.kind = c.kind;
    args_.in_channels = c.in_channels();
    auto* padding = memory().padding.place(c.in_channels(), c.side);
    std::fill_n(padding, c.in_channels(), random.byte());
    args_.padding = padding;
    if (c.kernel->kernel) {
      place_image();
    } else {
      place_taps();
    }
    place_weights();
    compute_sums();
    place_epilogue();
    args_.epilogue = &kernel_;
  }

  const WindowArgs& args() const { return args_; }
  // Output channels of [args().begin, args().end).
  int32_t first_channel() const { return grouped() ? args_.begin * block_channels_ : args_.begin; }
  int32_t end_channel() const {
    return grouped() ? std::min(args_.end * block_channels_, case_.channels()) : args_.end;
  }
  std::vector<uint8_t> expected() const {
    const int32_t pixels = case_.out_rows * case_.pixels, n = case_.channels();
    const size_t width = n * kind_size(case_.kind);
    std::vector<uint8_t> out(pixels * width);
    ref::store_tile(case_.kind, sums_.data(), pixels, n, reference_, args_.m0, 0, out.data(),
                    static_cast<ptrdiff_t>(width));
    return out;
  }

 private:
  bool grouped() const { return case_.kernel->kind == WindowKind::kGrouped; }

  void fill(void* data, size_t size, bool is_signed) {
    random_.fill(data, size);
    if (case_.values == Values::kRandom) return;
    const uint8_t ends[2] = {static_cast<uint8_t>(is_signed ? 0x80 : 0),
                             static_cast<uint8_t>(is_signed ? 0x7f : 0xff)};
    for (size_t i = 0; i < size; ++i)
      static_cast<uint8_t*>(data)[i] = ends[static_cast<uint8_t*>(data)[i] & 1];
  }

  // A pixel for each tap of each window, a guard page between any two.
  void place_taps() {
    const int32_t count = case_.pixels * case_.taps;
    const uint8_t** rows = memory().rows.place_array<const uint8_t*>(count, case_.side);
    for (int32_t i = 0; i < count; ++i) {
      uint8_t* row = memory().input.row(i, case_.in_channels(), case_.side);
      fill(row, case_.in_channels(), case_.a_signed);
      rows[i] = random_.chance(5) ? args_.padding : row;
    }
    // Neighbouring windows read the same pixels.
    for (int32_t i = 1; i < count; i += 3) rows[i] = rows[i - 1];
    args_.rows = rows;
  }

  // Image rows, a guard page between any two; windows begin before the rows and end behind them.
  void place_image() {
    const int32_t kernel = case_.kernel->kernel;
    const int32_t count = (case_.out_rows - 1) * case_.kernel->stride + kernel;
    const int32_t slack = random_.chance(2) ? random_.integer(1, 7) : 0;
    args_.pixel_stride = case_.in_channels() + slack;
    const int32_t room =
        static_cast<int32_t>((page_size() - case_.in_channels()) / args_.pixel_stride) + 1;
    const int32_t reach = (case_.pixels - 1) * case_.kernel->stride + kernel;
    args_.first = random_.integer(-kernel, 1);
    args_.columns = std::clamp(reach + args_.first - random_.integer(-2, kernel), 1, room);
    const uint8_t** rows = memory().rows.place_array<const uint8_t*>(count, case_.side);
    const size_t bytes = (args_.columns - 1) * args_.pixel_stride + case_.in_channels();
    for (int32_t i = 0; i < count; ++i) {
      uint8_t* row = memory().input.row(i, bytes, case_.side);
      fill(row, bytes, case_.a_signed);
      rows[i] = random_.chance(5) ? args_.padding : row;
    }
    args_.rows = rows;
  }

  const uint8_t* address(int32_t row, int32_t pixel, int32_t tap) const {
    const int32_t kernel = case_.kernel->kernel;
    if (!kernel) return args_.rows[pixel * case_.taps + tap];
    const uint8_t* at = args_.rows[row * case_.kernel->stride + tap / kernel];
    const int32_t x = args_.first + pixel * case_.kernel->stride + tap % kernel;
    if (at == args_.padding || x < 0 || x >= args_.columns) return args_.padding;
    return at + x * args_.pixel_stride;
  }

  void place_weights() {
    w_.resize(size_t(case_.channels()) * case_.taps * case_.k);
    fill(w_.data(), w_.size(), true);
    const auto packed = PackedWindow::pack(w_.data(), {case_.groups, case_.n, case_.taps, case_.k});
    ASSERT_EQ(packed->kind(), case_.kernel->kind);
    const size_t size = static_cast<size_t>(packed->bytes());
    uint8_t* w = memory().w.place(size, case_.side, 64);
    std::memcpy(w, packed->data(), size);
    args_.w = w;
    args_.chunks = packed->chunks();
    args_.end = packed->units();
    if (grouped()) {
      block_channels_ = reinterpret_cast<const GroupedBlock*>(w)->count;
      if (args_.end > 1 && random_.chance(3)) args_.begin = random_.integer(1, args_.end - 1);
      if (random_.chance(3)) args_.end = random_.integer(args_.begin + 1, args_.end);
    } else {
      const int32_t parts = (args_.end + kWindowSplit - 1) / kWindowSplit;
      if (random_.chance(3)) args_.begin = random_.integer(0, parts - 1) * kWindowSplit;
      if (random_.chance(3)) args_.end = std::min(args_.end, args_.begin + kWindowSplit);
    }
  }

  void compute_sums() {
    const int32_t n = case_.channels();
    sums_.assign(size_t(case_.out_rows) * case_.pixels * n, 0);
    int64_t* sum = sums_.data();
    for (int32_t row = 0; row < case_.out_rows; ++row) {
      for (int32_t p = 0; p < case_.pixels; ++p, sum += n) {
        for (int32_t t = 0; t < case_.taps; ++t) {
          const ref::Bytes pixel{address(row, p, t), case_.a_signed};
          for (int32_t c = 0; c < n; ++c) {
            const int8_t* w = &w_[(size_t(c) * case_.taps + t) * case_.k];
            for (int32_t i = 0; i < case_.k; ++i)
              sum[c] += pixel.at(c / case_.n * case_.k + i) * w[i];
          }
        }
      }
    }
  }

  void place_epilogue() {
    const int32_t channels = case_.channels();
    const auto padded = static_cast<int32_t>(round_up(channels, kChannelPad));
    const int32_t a_zero = case_.a_signed ? random_.integer(-128, 127) : random_.byte();
    const int32_t offset = case_.kernel->a_offset[case_.a_signed];
    auto* acc_init = memory().acc_init.place_array<int32_t>(padded, case_.side);
    auto* mult = memory().mult.place_array<float>(padded, case_.side);
    auto* bias = memory().bias.place_array<float>(padded, case_.side);
    reference_acc_init_.assign(padded, 0);
    const int32_t depth = case_.taps * case_.k;
    for (int32_t c = 0; c < channels; ++c) {
      int32_t sum = 0;
      for (int32_t i = 0; i < depth; ++i) sum += w_[size_t(c) * depth + i];
      reference_acc_init_[c] = -a_zero * sum;
      acc_init[c] = -(a_zero + offset) * sum;
      // Powers of two make ties; the range of the sums passes both clamps, and sometimes int32.
      mult[c] = random_.chance(2) ? 0x1p-7f : random_.real(0.001f, 0.1f);
      if (random_.chance(50)) mult[c] = random_.chance(2) ? 1e20f : -1e20f;
      bias[c] = static_cast<float>(random_.integer(-4000, 4000));
    }
    kernel_.acc_init = acc_init;
    kernel_.mult = mult;
    kernel_.bias = bias;
    if (case_.residual) place_residual();
    const bool real = is_float(case_.kind) || case_.kind == OutKind::kI32;
    const int32_t qmin = case_.kind == OutKind::kS8 ? -128 : 0;
    kernel_.out_zero = real ? 0 : qmin + random_.byte();
    kernel_.lo = real ? -20.0f : static_cast<float>(qmin - kernel_.out_zero);
    kernel_.hi = real ? 30.0f : static_cast<float>(qmin + 255 - kernel_.out_zero);
    if (real && random_.chance(2)) {
      kernel_.hi = std::numeric_limits<float>::infinity();
      kernel_.lo = random_.chance(2) ? 0.0f : -kernel_.hi;
    }
    if (is_float(case_.kind)) kernel_.gelu = random_.chance(4);
    if (!real && random_.chance(2)) {  // ReLU, or ReLU6
      kernel_.lo = 0.0f;
      if (random_.chance(2))
        kernel_.hi = static_cast<float>(random_.integer(0, 255)) * kernel_.hi / 255.0f;
    }
    reference_ = kernel_;
    reference_.acc_init = reference_acc_init_.data();
  }

  void place_residual() {
    args_.m0 = random_.integer(0, 3);
    const size_t stride = case_.channels();
    const size_t size = (args_.m0 + size_t(case_.out_rows) * case_.pixels) * stride;
    uint8_t* residual = memory().residual.place(size, case_.side);
    random_.fill(residual, size);
    kernel_.add = residual;
    kernel_.add_stride = static_cast<ptrdiff_t>(stride);
    kernel_.add_scale = 0.5f;
    kernel_.add_signed = case_.residual == 2;
    kernel_.add_zero = 7;
  }

  const WindowCase& case_;
  Random& random_;
  WindowArgs args_{};
  int32_t block_channels_ = 0;
  std::vector<int8_t> w_;
  std::vector<int64_t> sums_;
  std::vector<int32_t> reference_acc_init_;
  Epilogue kernel_{}, reference_{};
};

// Runs the kernel; every byte that is not an output of the call must stay as it was.
::testing::AssertionResult run(Random& random, const WindowCase& c) {
  const WindowProblem problem(random, c);
  const size_t element = kind_size(c.kind), width = c.channels() * element;
  const size_t stride = width + random.integer(0, 3) * element;
  const size_t row_stride = c.pixels * stride + random.integer(0, 3) * element;
  const size_t size = (c.out_rows - 1) * row_stride + (c.pixels - 1) * stride + width;
  uint8_t* out = memory().out.place(size, c.side, element);
  WindowArgs args = problem.args();
  args.out = out;
  args.out_stride = static_cast<ptrdiff_t>(stride);
  args.out_row_stride = static_cast<ptrdiff_t>(row_stride);
  const RunningCase running(&c);
  c.kernel->fn[c.a_signed](&args);

  const std::vector<uint8_t> outputs = problem.expected();
  std::vector<uint8_t> expected(size, GuardBuffer::kFill);
  const size_t first = problem.first_channel() * element, end = problem.end_channel() * element;
  for (int32_t i = 0; i < c.out_rows * c.pixels; ++i) {
    const uint8_t* from = &outputs[i * width];
    std::copy(from + first, from + end,
              &expected[i / c.pixels * row_stride + i % c.pixels * stride + first]);
  }
  const std::string difference = first_difference(out, expected.data(), size);
  if (!difference.empty())
    return ::testing::AssertionFailure() << c.describe() << ": " << difference;
  if (!memory().out.margin_intact())
    return ::testing::AssertionFailure() << c.describe() << ": wrote beside the output";
  return ::testing::AssertionSuccess();
}

struct Groups {
  int32_t groups, n, k;
};

std::vector<Groups> groups_for(WindowKind kind) {
  std::vector<Groups> all;
  if (kind == WindowKind::kDepthwise) {
    for (int32_t c = 1; c <= 67; ++c) all.push_back({c, 1, 1});
    for (const int32_t c : {95, 96, 97, 111, 127, 128, 129, 200}) all.push_back({c, 1, 1});
    return all;
  }
  constexpr int32_t kSizes[][2] = {{4, 4},  {8, 8},   {16, 16}, {1, 2}, {2, 1},  {3, 1},
                                   {16, 1}, {1, 16},  {5, 3},   {7, 5}, {3, 7},  {6, 10},
                                   {12, 9}, {13, 13}, {4, 8},   {8, 4}, {2, 12}, {15, 15}};
  for (const auto& [n, k] : kSizes) {
    for (const int32_t groups : {2, 3, 4, 5, 8, 9, 17}) all.push_back({groups, n, k});
  }
  return all;
}

class WindowKernelTest : public IsaTest {
 protected:
  void check(Random& random, const WindowKernel& kernel, const Groups& g, OutKind kind,
             int32_t taps) {
    for (const int32_t pixels : {1, 2, 3, 5, 8, 16, 32, 33, 70}) {
      // Kernels along rows may store long ones in parts.
      if (pixels > kMaxPixels && !(kernel.kernel && random.chance(4))) continue;
      WindowCase c;
      c.kernel = &kernel;
      c.a_signed = random.chance(2);
      c.kind = kind;
      c.groups = g.groups;
      c.n = g.n;
      c.k = g.k;
      c.taps = taps;
      c.out_rows = kernel.kernel ? random.integer(1, 7) : 1;
      c.pixels = pixels;
      c.values = random.chance(4) ? Values::kCorners : Values::kRandom;
      c.residual = kind_size(kind) == 1 ? random.integer(0, 2) : 0;
      c.side = random.chance(2) ? Side::kEnd : Side::kBegin;
      ASSERT_TRUE(run(random, c));
    }
  }
};

TEST_P(WindowKernelTest, EqualsReferenceAtAllSizes) {
  Random random(1);
  for (int32_t i = 0; i < set().window_count; ++i) {
    const WindowKernel& kernel = set().window[i];
    for (const Groups& g : groups_for(kernel.kind)) {
      if (kernel.kernel && kernel.kind == WindowKind::kGrouped && g.groups * g.k < 16) continue;
      if (!kernel.kernel) {
        for (const OutKind kind : kAllKinds) {
          for (const int32_t taps : {1, 2, 9, 25}) check(random, kernel, g, kind, taps);
        }
        check(random, kernel, g, OutKind::kU8, 49);
        check(random, kernel, g, OutKind::kS8, kMaxTaps);
      } else {
        const int32_t taps = kernel.kernel * kernel.kernel;
        for (int round = 0; round < 4; ++round) {
          check(random, kernel, g, OutKind::kU8, taps);
          check(random, kernel, g, OutKind::kS8, taps);
        }
        for (const OutKind kind : kAllKinds) check(random, kernel, g, kind, taps);
      }
      if (HasFatalFailure()) return;
    }
  }
}

OCTAVO_INSTANTIATE_ISA_TESTS(WindowKernelTest);

}  // namespace
}  // namespace octavo::testing
