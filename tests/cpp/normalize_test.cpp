// Look-up tables, linear functions by column, moments and softmax: every kernel of every ISA
// against the reference, to the bit, at all small sizes, between guard pages.
#include <algorithm>
#include <cmath>

#include "cpu/features.h"
#include "guard_buffer.h"
#include "ops/unary_table.h"
#include "ref/reference.h"
#include "support.h"

namespace octavo::testing {
namespace {

struct NormalizeCase final : CaseDescriber {
  std::string name;
  int64_t rows = 1, size = 0;
  Side side = Side::kEnd;

  std::string describe() const override {
    return name + " rows=" + std::to_string(rows) + " size=" + std::to_string(size) +
           (side == Side::kEnd ? " guard=end" : " guard=begin");
  }
};

constexpr size_t kCapacity = size_t{1} << 18;
struct Memory {
  GuardBuffer in{kCapacity}, out{kCapacity}, scale{kCapacity}, shift{kCapacity};
};
Memory& memory() {
  static Memory once;
  return once;
}

std::vector<int64_t> sizes() {
  std::vector<int64_t> all;
  for (int64_t i = 1; i <= 131; ++i) all.push_back(i);
  all.insert(all.end(), {191, 192, 193, 255, 256, 257, 1000, 4099});
  return all;
}

class NormalizeKernelTest : public IsaTest {
 protected:
  const ElementwiseFns& fns() const { return set().elementwise; }

  template <typename Body>
  void for_each_size(const std::string& name, Body body) {
    NormalizeCase c;
    c.name = name;
    for (int64_t size : sizes()) {
      for (Side side : {Side::kEnd, Side::kBegin}) {
        c.size = size;
        c.side = side;
        body(c);
        if (HasFatalFailure()) return;
      }
    }
  }

  // Runs kernel(out) into guarded memory and compares with what reference(out) writes.
  template <typename Kernel, typename Reference>
  void compare(const NormalizeCase& c, size_t bytes, Kernel kernel, Reference reference) {
    uint8_t* out = memory().out.place(bytes, c.side);
    {
      const RunningCase running(&c);
      kernel(out);
    }
    std::vector<uint8_t> expected(bytes, GuardBuffer::kFill);
    reference(expected.data());
    ASSERT_EQ(first_difference(out, expected.data(), bytes), "") << c.describe();
    ASSERT_TRUE(memory().out.margin_intact()) << c.describe() << ": wrote beside the output";
  }
};

TEST_P(NormalizeKernelTest, Lookup) {
  Random random(1);
  const bool vbmi = cpu::features() & cpu::bit(cpu::Feature::avx512_vbmi);
  for (const auto lookup : {fns().lookup, vbmi ? fns().lookup_vbmi : nullptr}) {
    if (!lookup) continue;
    std::vector<uint8_t> table(256);
    for (int i = 0; i < 256; ++i) table[i] = static_cast<uint8_t>(i);
    std::shuffle(table.begin(), table.end(), std::mt19937(7));
    for_each_size("lookup", [&](const NormalizeCase& c) {
      uint8_t* in = memory().in.place(c.size, c.side);
      // All bytes occur at all places within a vector.
      for (int64_t i = 0; i < c.size; ++i) in[i] = static_cast<uint8_t>(i * 67 + c.size);
      const uint8_t* guarded = memory().scale.place(256, c.side);
      std::copy(table.begin(), table.end(), memory().scale.data());
      compare(
          c, c.size, [&](void* out) { lookup(guarded, in, c.size, out); },
          [&](uint8_t* out) {
            for (int64_t i = 0; i < c.size; ++i) out[i] = table[in[i]];
          });
      std::vector<uint8_t> expected(c.size);
      for (int64_t i = 0; i < c.size; ++i) expected[i] = table[in[i]];
      lookup(guarded, in, c.size, in);
      ASSERT_EQ(first_difference(in, expected.data(), c.size), "") << c.describe() << " in place";
    });
  }
}

float hard_parameter(Random& random) {
  static const std::vector<float> kValues = {0.0f,  -0.0f,  0.5f,   -0.5f,   1.0f,  -1.0f,  1.5f,
                                             37.3f, -0.01f, 1e-30f, -1e-30f, 1e30f, -1e30f, 1e6f};
  return random.chance(2) ? random.pick(kValues) : random.real(-3.0f, 3.0f);
}

TEST_P(NormalizeKernelTest, Affine) {
  Random random(2);
  for (int kind = 0; kind < kAffineKinds; ++kind) {
    for (int s = 0; s < 2; ++s) {
      const std::string name = "affine " + std::to_string(kind) + (s ? " s8" : " u8");
      for_each_size(name, [&](const NormalizeCase& each) {
        NormalizeCase c = each;
        c.rows = random.integer(1, 3);
        const bool uniform = random.chance(3);
        const ptrdiff_t stride = c.size + random.integer(0, 5);
        const size_t reach = (c.rows - 1) * stride + c.size;
        uint8_t* in = memory().in.place(reach, c.side);
        random.fill(in, reach);
        const size_t count =
            uniform ? kAffinePad : (c.size + kAffinePad - 1) / kAffinePad * kAffinePad;
        float* scale = memory().scale.place_array<float>(count, c.side);
        float* shift = memory().shift.place_array<float>(count, c.side);
        // Moderate ones, which AffineArgs::stays_int32 admits, or hard ones.
        const bool moderate = random.chance(2);
        const auto parameter = [&] {
          return moderate ? random.real(-3.0f, 3.0f) : hard_parameter(random);
        };
        for (size_t i = 0; i < count; ++i) {
          scale[i] = uniform && i ? scale[0] : parameter();
          shift[i] = uniform && i ? shift[0] : parameter() * 40.0f;
        }
        AffineArgs args{};
        args.in = in;
        args.rows = c.rows;
        args.columns = c.size;
        args.in_stride = args.out_stride = stride;
        args.scale = scale;
        args.shift = shift;
        args.uniform = uniform;
        args.center = random.chance(2) ? static_cast<float>(random.byte() - (s ? 128 : 0))
                                       : random.real(-130.0f, 260.0f);
        args.factor = hard_parameter(random);
        float row_scale[3], row_shift[3];
        for (int i = 0; i < 3; ++i) {
          row_scale[i] = parameter();
          row_shift[i] = parameter() * 40.0f;
        }
        args.row_scale = row_scale;
        args.row_shift = row_shift;
        args.stays_int32 = moderate && kind != static_cast<int>(AffineKind::kPrelu);
        args.out_signed = random.integer(0, 1);
        const int32_t qmin = args.out_signed ? -128 : 0;
        args.out_zero = qmin + random.byte();
        args.lo = random.chance(2) ? args.out_zero : qmin;
        compare(
            c, reach,
            [&](void* out) {
              args.out = out;
              fns().affine[kind][s](&args);
            },
            [&](void* out) {
              args.out = out;
              ref::affine_kernel(args, static_cast<AffineKind>(kind), s);
            });
      });
    }
  }
}

TEST_P(NormalizeKernelTest, Moments) {
  Random random(3);
  const auto check = [&](const NormalizeCase& c, const uint8_t* in) {
    for (const int32_t flip : {0, 128}) {
      int64_t got[2] = {5, 7}, sum = 5, square = 7;
      {
        const RunningCase running(&c);
        fns().moments(in, c.size, flip, got);
      }
      for (int64_t i = 0; i < c.size; ++i) {
        sum += in[i] ^ flip;
        square += (in[i] ^ flip) * (in[i] ^ flip);
      }
      ASSERT_EQ(got[0], sum) << c.describe() << " flip " << flip;
      ASSERT_EQ(got[1], square) << c.describe() << " flip " << flip;
    }
  };
  for_each_size("moments", [&](const NormalizeCase& c) {
    uint8_t* in = memory().in.place(c.size, c.side);
    random.fill(in, c.size);
    check(c, in);
  });
  // Longer than what an int32 lane holds of the largest squares.
  NormalizeCase c;
  c.name = "moments of long runs";
  for (const uint8_t byte : {uint8_t{255}, uint8_t{127}, uint8_t{128}}) {
    std::vector<uint8_t> in(3000077, byte);
    c.size = static_cast<int64_t>(in.size());
    check(c, in.data());
  }
}

TEST_P(NormalizeKernelTest, ColumnMoments) {
  Random random(4);
  const auto check = [&](const NormalizeCase& c, const uint8_t* in, ptrdiff_t stride) {
    for (const int32_t flip : {0, 128}) {
      int32_t* sums = memory().scale.place_array<int32_t>(c.size, c.side);
      int32_t* squares = memory().shift.place_array<int32_t>(c.size, c.side);
      {
        const RunningCase running(&c);
        fns().column_moments(in, c.rows, stride, c.size, flip, sums, squares);
      }
      std::vector<int64_t> sum(c.size), square(c.size);
      ref::column_moments(in, c.rows, stride, c.size, flip, sum.data(), square.data());
      for (int64_t i = 0; i < c.size; ++i) {
        ASSERT_EQ(sums[i], sum[i]) << c.describe() << " column " << i;
        ASSERT_EQ(squares[i], square[i]) << c.describe() << " column " << i;
      }
      ASSERT_TRUE(memory().scale.margin_intact() && memory().shift.margin_intact());
    }
  };
  for_each_size("column moments", [&](const NormalizeCase& each) {
    NormalizeCase c = each;
    c.rows = random.integer(0, 9);
    const ptrdiff_t stride = c.size + random.integer(0, 5);
    const size_t reach = c.rows ? (c.rows - 1) * stride + c.size : 0;
    uint8_t* in = memory().in.place(reach, c.side);
    random.fill(in, reach);
    check(c, in, stride);
  });
  NormalizeCase c;
  c.name = "column moments of many rows";
  c.rows = kMomentRows;
  c.size = 67;
  const std::vector<uint8_t> in(c.rows * c.size, 255);
  check(c, in.data(), c.size);
}

TEST_P(NormalizeKernelTest, Softmax) {
  Random random(5);
  for (const double step : {0.0, 1e-3, 0.05, 0.7, 30.0}) {
    SoftmaxTable table;
    for (int i = 0; i < 16; ++i) {
      table.high[i] = static_cast<float>(std::exp(-step * 16 * i) * (0x1p30 - 64));
      table.low[i] = static_cast<float>(std::exp(-step * i));
    }
    for (int d = 0; d < 256; ++d) {
      table.exps[d] = static_cast<int32_t>(std::nearbyint(table.high[d / 16] * table.low[d % 16]));
    }
    for_each_size("softmax", [&](const NormalizeCase& each) {
      NormalizeCase c = each;
      c.rows = random.integer(1, 3);
      SoftmaxArgs args{};
      args.in_stride = args.out_stride = c.size + random.integer(0, 3);
      const size_t reach = (c.rows - 1) * args.in_stride + c.size;
      uint8_t* in = memory().in.place(reach, c.side);
      random.fill(in, reach);
      if (random.chance(3)) std::fill_n(in, reach, random.byte());
      args.in = in;
      args.rows = c.rows;
      args.size = c.size;
      args.exps = table.exps;
      args.high = table.high;
      args.low = table.low;
      args.lookup = fns().lookup;
      args.inv_scale = random.chance(2) ? 256.0 : 1e9;
      args.in_flip = random.chance(2) ? 128 : 0;
      args.out_signed = random.integer(0, 1);
      args.out_zero = random.byte() - (args.out_signed ? 128 : 0);
      compare(
          c, reach,
          [&](void* out) {
            args.out = out;
            fns().softmax(&args);
          },
          [&](void* out) {
            args.out = out;
            ref::softmax_kernel(args);
          });
    });
  }
}

OCTAVO_INSTANTIATE_ISA_TESTS(NormalizeKernelTest);

}  // namespace
}  // namespace octavo::testing
