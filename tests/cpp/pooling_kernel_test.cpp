// Every pooling and interpolation kernel of every ISA against the reference, to the bit, at all
// small channel counts, each input pixel between guard pages.
#include "guard_buffer.h"
#include "image_case.h"

namespace octavo::testing {
namespace {

constexpr int kPixels = 160;  // guarded ones

struct PoolingCase final : CaseDescriber {
  std::string name;
  int32_t channels = 0;
  Side side = Side::kEnd;

  std::string describe() const override {
    return name + " channels=" + std::to_string(channels) +
           (side == Side::kEnd ? " guard=end" : " guard=begin");
  }
};

std::vector<int32_t> channel_counts() {
  std::vector<int32_t> all;
  for (int32_t i = 1; i <= 130; ++i) all.push_back(i);
  all.insert(all.end(), {191, 192, 193, 255, 256, 257, 320, 1000});
  return all;
}

const char* type_name(bool is_signed) { return is_signed ? "s8" : "u8"; }

class PoolingKernelTest : public IsaTest {
 protected:
  const ElementwiseFns& fns() const { return set().elementwise; }

  // Fills the guarded pixels for this case and returns the first; the others follow at
  // GuardRows::stride().
  const uint8_t* fill_pixels(Random& random, const PoolingCase& c) const {
    static const GuardRows rows(kPixels);
    const bool extreme = random.chance(8);  // sums reach the ends of 16 bits
    for (int i = 0; i < kPixels; ++i) {
      uint8_t* pixel = rows.row(i, c.channels, c.side);
      if (extreme) {
        std::memset(pixel, random.pick(std::vector<int>{255, 128}), c.channels);
      } else {
        random.fill(pixel, c.channels);
      }
    }
    return rows.row(0, c.channels, c.side);
  }

  // Runs `kernel(out)` on `pixels` output pixels in guarded memory with `gap` bytes between them,
  // and compares all of it with what `reference(out)` writes.
  template <typename Kernel, typename Reference>
  void compare(const PoolingCase& c, int64_t pixels, int32_t gap, Kernel kernel,
               Reference reference) const {
    static GuardBuffer buffer(size_t{1} << 17);
    const size_t bytes = (pixels - 1) * (c.channels + gap) + c.channels;
    uint8_t* out = buffer.place(bytes, c.side);
    {
      const RunningCase running(&c);
      kernel(out);
    }
    std::vector<uint8_t> expected(bytes, GuardBuffer::kFill);
    reference(expected.data());
    ASSERT_EQ(first_difference(out, expected.data(), bytes), "") << c.describe();
    ASSERT_TRUE(buffer.margin_intact()) << c.describe() << ": wrote beside the output";
  }

  template <typename Body>
  void for_each_case(Body body) {
    for (const bool is_signed : {false, true}) {
      for (const int32_t channels : channel_counts()) {
        for (const Side side : {Side::kEnd, Side::kBegin}) {
          PoolingCase c;
          c.channels = channels;
          c.side = side;
          body(c, is_signed);
          if (HasFatalFailure()) return;
        }
      }
    }
  }

  using PoolKernel = void (*)(const PoolArgs&, bool);
  void check(uint64_t seed, const char* name, void (*const (&kernels)[2])(const PoolArgs*),
             PoolKernel reference) {
    Random random(seed);
    const std::vector<std::array<int32_t, 3>> windows = {
        {1, 1, 1}, {1, 3, 3}, {1, 2, 2}, {2, 3, 2}, {1, 1, 7}, {3, 1, 3}, {1, 7, 7}, {0, 3, 3}};
    for (const auto& window : windows) {
      for_each_case([&](PoolingCase& c, bool is_signed) {
        PoolArgs args{};
        int32_t across = random.integer(1, 2);  // pixels between taps
        int32_t reach = 0;
        for (int d = 2; d >= 0; --d) {
          args.taps[d] = window[d];
          args.tap_stride[d] = across * GuardRows::stride();
          reach += std::max(window[d] - 1, 0) * across;
          // Rows that follow each other like pixels, or apart.
          across = across * std::max(window[d], 1) + (d == 2 ? random.integer(0, 1) : 0);
        }
        const int32_t step = random.integer(1, 3);
        args.pixels = random.integer(1, std::min(9, (kPixels - 1 - reach) / step + 1));
        args.in_stride = step * GuardRows::stride();
        args.channels = c.channels;
        // 1 is divisor_override = 1: sums pass both ends of the type.
        const int32_t taps = std::max(1, window[0] * window[1] * window[2]);
        args.scale = 1.0f / static_cast<float>(random.chance(4) ? 1 : taps + random.integer(0, 3));
        args.zero_point = random_zero_point(random, is_signed);
        const int32_t gap = random.integer(0, 5);
        args.out_stride = c.channels + gap;
        c.name = std::string(name) + " " + type_name(is_signed) + " window " +
                 std::to_string(window[0]) + "x" + std::to_string(window[1]) + "x" +
                 std::to_string(window[2]) + " pixels=" + std::to_string(args.pixels);
        args.in = fill_pixels(random, c);
        compare(
            c, args.pixels, gap,
            [&](void* out) {
              args.out = out;
              kernels[is_signed](&args);
            },
            [&](void* out) {
              args.out = out;
              reference(args, is_signed);
            });
      });
    }
  }
};

TEST_P(PoolingKernelTest, MaxPool) { check(1, "max_pool", fns().max_pool, ref::max_pool_kernel); }

TEST_P(PoolingKernelTest, AveragePool) {
  check(2, "avg_pool", fns().avg_pool, ref::avg_pool_kernel);
}

// More taps than 16-bit sums hold, in one row and in many.
TEST_P(PoolingKernelTest, AverageOfLargeWindows) {
  Random random(3);
  for (const bool is_signed : {false, true}) {
    for (const std::array<int32_t, 3>& taps : std::vector<std::array<int32_t, 3>>{
             {1, 1, 255}, {1, 1, 256}, {1, 1, 257}, {1, 1, 1000}, {2, 129, 1}, {3, 30, 7}}) {
      for (const int32_t channels : {1, 16, 31, 32, 64, 130, 257}) {
        for (const int fill : {-1, 0, 127, 128, 255}) {
          const int64_t pixels = 5, count = int64_t{taps[0]} * taps[1] * taps[2];
          std::vector<uint8_t> in((count + pixels) * channels);
          std::memset(in.data(), fill, in.size());
          if (fill < 0) random.fill(in.data(), in.size());
          PoolArgs args{};
          args.in = in.data();
          const ptrdiff_t step = channels;
          for (int d = 0; d < 3; ++d) args.taps[d] = taps[d];
          args.tap_stride[2] = step;
          args.tap_stride[1] = step * taps[2];
          args.tap_stride[0] = step * taps[2] * taps[1];
          args.pixels = pixels;
          args.in_stride = args.out_stride = step;
          args.channels = channels;
          args.scale = 1.0f / static_cast<float>(count);
          args.zero_point = random_zero_point(random, is_signed);
          std::vector<uint8_t> got(pixels * channels), expected(got.size());
          args.out = got.data();
          fns().avg_pool[is_signed](&args);
          args.out = expected.data();
          ref::avg_pool_kernel(args, is_signed);
          ASSERT_EQ(first_difference(got.data(), expected.data(), got.size()), "")
              << type_name(is_signed) << " taps=" << count << " channels=" << channels
              << " fill=" << fill;
        }
      }
    }
  }
}

// Weights that sum to one, all on one pixel now and then; multiples of `step`.
void random_weights(Random& random, int32_t step, int32_t* weights, int32_t rows) {
  int32_t left = kInterpolationOne / step;
  for (int32_t r = 0; r < rows; ++r) {
    int32_t pair[2];
    for (int i = 0; i < 2; ++i) {
      const bool last = r == rows - 1 && i == 1;
      pair[i] = last || random.chance(6) ? left : random.integer(0, left);
      left -= pair[i];
    }
    weights[r] = (pair[0] + pair[1] * 65536) * step;
  }
}

TEST_P(PoolingKernelTest, Interpolate) {
  Random random(4);
  for (const int32_t rows : {1, 2, 4}) {
    for_each_case([&](PoolingCase& c, bool is_signed) {
      constexpr int kPerRow = 16;
      const int32_t step = random.chance(2) ? 128 : 1;  // 128: a form of its own
      const int64_t pixels = random.integer(1, 9);
      const uint8_t* first = fill_pixels(random, c);
      const void* addresses[4];
      for (int r = 0; r < 4; ++r) addresses[r] = first + r * kPerRow * GuardRows::stride();
      std::vector<ptrdiff_t> left(pixels), right(pixels);
      std::vector<int32_t> weights(pixels * rows);
      for (int64_t i = 0; i < pixels; ++i) {
        left[i] = random.integer(0, kPerRow - 1) * GuardRows::stride();
        right[i] = random.integer(0, kPerRow - 1) * GuardRows::stride();
        random_weights(random, step, &weights[i * rows], rows);
      }
      int32_t bits = 0;
      for (const int32_t w : weights) bits |= w;
      const int32_t gap = random.integer(0, 5);
      InterpolateArgs args{};
      args.rows = addresses;
      args.row_count = rows;
      args.left = left.data();
      args.right = right.data();
      args.weights = weights.data();
      args.weight_bits = bits;
      args.pixels = pixels;
      args.channels = c.channels;
      args.out_stride = c.channels + gap;
      args.zero_point = random_zero_point(random, is_signed);
      c.name = std::string("interpolate ") + type_name(is_signed) +
               " rows=" + std::to_string(rows) + " pixels=" + std::to_string(pixels) +
               " weights of " + std::to_string(step);
      compare(
          c, pixels, gap,
          [&](void* out) {
            args.out = out;
            fns().interpolate[is_signed](&args);
          },
          [&](void* out) {
            args.out = out;
            ref::interpolate_kernel(args, is_signed);
          });
    });
  }
}

// The requantization of rows apart, as concatenation along the channels uses it.
TEST_P(PoolingKernelTest, RequantizeRows) {
  Random random(5);
  for_each_case([&](PoolingCase& c, bool is_signed) {
    UnaryArgs args{};
    args.in = fill_pixels(random, c);
    args.size = c.channels;
    args.rows = random.integer(1, 9);
    args.in_stride = GuardRows::stride();
    const int32_t gap = random.integer(0, 5), qmin = is_signed ? -128 : 0;
    args.out_stride = c.channels + gap;
    args.scale = random.real(0.1f, 3.0f);
    args.in_zero = random_zero_point(random, is_signed);
    args.out_zero = random_zero_point(random, is_signed);
    args.lo = static_cast<float>(qmin - args.out_zero);
    args.hi = static_cast<float>(qmin + 255 - args.out_zero);
    c.name = std::string("requantize rows ") + type_name(is_signed);
    compare(
        c, args.rows, gap,
        [&](void* out) {
          args.out = out;
          fns().requantize[is_signed][is_signed](&args);
        },
        [&](void* out) {
          args.out = out;
          ref::requantize_kernel(args, is_signed, is_signed);
        });
  });
}

OCTAVO_INSTANTIATE_ISA_TESTS(PoolingKernelTest);

}  // namespace
}  // namespace octavo::testing
