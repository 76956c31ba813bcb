// Every depthwise kernel of every ISA against the reference, to the bit, between guard pages.
#include <algorithm>

#include "abi/out_kind.h"
#include "gemm_case.h"
#include "pack/packed_weight.h"

namespace octavo::testing {
namespace {

struct DepthwiseCase final : CaseDescriber {
  const char* kernel;
  bool a_signed;
  OutKind kind;
  int32_t pixels, channels, taps;
  const EpilogueChoice* epilogue;

  std::string describe() const override {
    return std::string(kernel) + (a_signed ? " s8" : " u8") + "->" + kind_name(kind) +
           " pixels=" + std::to_string(pixels) + " channels=" + std::to_string(channels) +
           " taps=" + std::to_string(taps) + " " + epilogue->describe();
  }
};

constexpr int32_t kMaxPixels = 17, kMaxTaps = 25;

struct Memory {
  GuardBuffer rows{kMaxPixels * kMaxTaps * sizeof(void*)}, w{32768}, out{1 << 18};
  GuardRows input{kMaxPixels * kMaxTaps};
  GuardBuffer acc_init{4096}, mult{4096}, bias{4096}, col_sum{4096}, residual{1 << 16};
};
Memory& memory() {
  static Memory once;
  return once;
}

// One call's input, weights and epilogue.
class DepthwiseProblem {
 public:
  DepthwiseProblem(Random& random, const DepthwiseKernel& kernel, const DepthwiseCase& c)
      : case_(c) {
    place_input(random);
    place_weights(random);
    place_epilogue(random, kernel);
  }

  // The kernel's arguments for an output at `out`.
  DepthwiseArgs args(void* out, ptrdiff_t stride) const {
    return {rows_,  case_.taps, case_.pixels, case_.channels,     packed_,           out,
            stride, case_.kind, &kernel_,     case_.epilogue->m0, case_.epilogue->n0};
  }
  Epilogue& kernel_epilogue() { return kernel_; }
  std::vector<uint8_t> expected() const {
    const size_t width = case_.channels * kind_size(case_.kind);
    std::vector<uint8_t> out(case_.pixels * width);
    ref::store_tile(case_.kind, sums_.data(), case_.pixels, case_.channels, reference_,
                    case_.epilogue->m0, case_.epilogue->n0, out.data(),
                    static_cast<ptrdiff_t>(width));
    return out;
  }

 private:
  void place_input(Random& random) {
    const Side side = case_.epilogue->side;
    const int32_t count = case_.pixels * case_.taps;
    rows_ = memory().rows.place_array<const uint8_t*>(count, side);
    for (int32_t i = 0; i < count; ++i) {
      uint8_t* row = memory().input.row(i, case_.channels, side);
      random.fill(row, case_.channels);
      rows_[i] = row;
    }
    // Neighbouring windows read the same pixels.
    for (int32_t i = 1; i < count; i += 3) rows_[i] = rows_[i - 1];
  }

  void place_weights(Random& random) {
    w_.resize(size_t(case_.channels) * case_.taps);
    random.fill(w_.data(), w_.size());
    const size_t blocks = (case_.channels + 15) / 16;
    auto* packed = reinterpret_cast<int8_t*>(
        memory().w.place(blocks * 16 * case_.taps, case_.epilogue->side, 16, 0));
    for (int32_t c = 0; c < case_.channels; ++c) {
      for (int32_t t = 0; t < case_.taps; ++t) {
        packed[(c / 16 * case_.taps + t) * 16 + c % 16] = w_[size_t(c) * case_.taps + t];
      }
    }
    packed_ = packed;
    sums_.assign(size_t(case_.pixels) * case_.channels, 0);
    for (int32_t p = 0; p < case_.pixels; ++p) {
      for (int32_t c = 0; c < case_.channels; ++c) {
        for (int32_t t = 0; t < case_.taps; ++t) {
          const ref::Bytes row{rows_[p * case_.taps + t], case_.a_signed};
          sums_[size_t(p) * case_.channels + c] += row.at(c) * w_[size_t(c) * case_.taps + t];
        }
      }
    }
  }

  void place_epilogue(Random& random, const DepthwiseKernel& kernel) {
    const EpilogueChoice& choice = *case_.epilogue;
    const int32_t columns = static_cast<int32_t>(round_up(choice.n0 + case_.channels, kChannelPad));
    const int32_t offset = case_.a_signed ? kernel.s8_offset : 0;
    auto* acc_init = memory().acc_init.place_array<int32_t>(columns, choice.side);
    auto* col_sum = memory().col_sum.place_array<int32_t>(columns, choice.side);
    auto* mult = memory().mult.place_array<float>(columns, choice.side);
    auto* bias = memory().bias.place_array<float>(columns, choice.side);
    reference_acc_init_.assign(columns, 0);
    for (int32_t c = 0; c < case_.channels; ++c) {
      const int32_t n = choice.n0 + c;
      int32_t sum = 0;
      for (int32_t t = 0; t < case_.taps; ++t) sum += w_[size_t(c) * case_.taps + t];
      reference_acc_init_[n] = -choice.a_zero * sum;
      acc_init[n] = -(choice.a_zero + offset) * sum;
      col_sum[n] = sum;
      // Powers of two make ties; the range of 25 products passes both clamps.
      mult[n] = random.chance(2) ? 0x1p-7f : random.real(0.001f, 0.1f);
      bias[n] = static_cast<float>(random.integer(-4000, 4000));
    }
    kernel_.acc_init = acc_init;
    kernel_.col_sum = col_sum;
    kernel_.mult = mult;
    kernel_.bias = bias;
    if (choice.residual && (case_.kind == OutKind::kU8 || case_.kind == OutKind::kS8)) {
      const size_t stride = choice.n0 + case_.channels;
      const size_t size = (choice.m0 + case_.pixels) * stride;
      uint8_t* residual = memory().residual.place(size, choice.side);
      random.fill(residual, size);
      kernel_.add = residual;
      kernel_.add_stride = static_cast<ptrdiff_t>(stride);
      kernel_.add_scale = 0.5f;
      kernel_.add_signed = choice.residual == 2;
      kernel_.add_zero = 7;
    }
    const bool real = is_float(case_.kind) || case_.kind == OutKind::kI32;
    const int32_t qmin = case_.kind == OutKind::kS8 ? -128 : 0;
    kernel_.out_zero = real ? 0 : qmin + random.integer(0, 255);
    kernel_.lo = real ? 0.0f : static_cast<float>(qmin - kernel_.out_zero);
    kernel_.hi = real ? 30.0f : static_cast<float>(qmin + 255 - kernel_.out_zero);
    reference_ = kernel_;
    reference_.acc_init = reference_acc_init_.data();
  }

  const DepthwiseCase& case_;
  const uint8_t** rows_ = nullptr;
  const int8_t* packed_ = nullptr;
  std::vector<int8_t> w_;
  std::vector<int64_t> sums_;
  std::vector<int32_t> reference_acc_init_;
  Epilogue kernel_{}, reference_{};
};

::testing::AssertionResult run(Random& random, const DepthwiseKernel& kernel,
                               const DepthwiseCase& c) {
  const DepthwiseProblem problem(random, kernel, c);
  const size_t width = c.channels * kind_size(c.kind);
  const size_t stride = width + random.integer(0, 3) * kind_size(c.kind);
  uint8_t* out =
      memory().out.place((c.pixels - 1) * stride + width, c.epilogue->side, kind_size(c.kind));
  const DepthwiseArgs args = problem.args(out, static_cast<ptrdiff_t>(stride));
  const RunningCase running(&c);
  kernel.fn[c.a_signed](&args);
  const std::vector<uint8_t> expected = problem.expected();
  for (int32_t p = 0; p < c.pixels; ++p) {
    const std::string difference =
        first_difference(out + p * stride, expected.data() + p * width, width);
    if (!difference.empty())
      return ::testing::AssertionFailure() << c.describe() << " pixel " << p << ": " << difference;
    for (size_t i = width; p + 1 < c.pixels && i < stride; ++i) {
      if (out[p * stride + i] != GuardBuffer::kFill) {
        return ::testing::AssertionFailure() << c.describe() << ": wrote behind pixel " << p;
      }
    }
  }
  if (!memory().out.margin_intact())
    return ::testing::AssertionFailure() << c.describe() << ": wrote beside the output";
  return ::testing::AssertionSuccess();
}

class DepthwiseKernelTest : public IsaTest {};

TEST_P(DepthwiseKernelTest, EqualsReferenceAtAllSizes) {
  const DepthwiseKernel& kernel = *set().depthwise;
  Random random(1);
  uint32_t index = 0;
  std::vector<int32_t> channel_counts;
  for (int32_t c = 1; c <= 67; ++c) channel_counts.push_back(c);
  channel_counts.insert(channel_counts.end(), {95, 96, 97, 127, 128, 129, 200});
  for (int a_signed = 0; a_signed < 2; ++a_signed) {
    for (OutKind kind : kAllKinds) {
      for (int32_t channels : channel_counts) {
        for (int32_t taps : {1, 2, 9, 25}) {
          for (int32_t pixels : {1, 2, 3, 5, 8, 17}) {
            EpilogueChoice choice = choose_epilogue(random, index++, a_signed);
            choice.n0 = choice.n0 / kDepthwiseBlock *
                        kDepthwiseBlock;  // drivers split channels at whole blocks
            choice.row_scale = choice.row_zero = choice.w_zero = false;
            DepthwiseCase c;
            c.kernel = kernel.name;
            c.a_signed = a_signed;
            c.kind = kind;
            c.pixels = pixels;
            c.channels = channels;
            c.taps = taps;
            c.epilogue = &choice;
            ASSERT_TRUE(run(random, kernel, c));
          }
        }
      }
    }
  }
}

OCTAVO_INSTANTIATE_ISA_TESTS(DepthwiseKernelTest);

}  // namespace
}  // namespace octavo::testing
