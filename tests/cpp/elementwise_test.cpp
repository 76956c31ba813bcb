// Every element-wise kernel of every ISA against the reference, to the bit, at all
// small sizes and alignments, between guard pages.
#include <cmath>
#include <limits>

#include "abi/half.h"
#include "guard_buffer.h"
#include "ref/reference.h"
#include "support.h"

namespace octavo::testing {
namespace {

struct ElementwiseCase final : CaseDescriber {
  std::string name;
  int64_t size = 0;
  Side side = Side::kEnd;

  std::string describe() const override {
    return name + " size=" + std::to_string(size) +
           (side == Side::kEnd ? " guard=end" : " guard=begin");
  }
};

constexpr size_t kCapacity = size_t{1} << 16;
struct Memory {
  GuardBuffer a{kCapacity}, b{kCapacity}, out{kCapacity};
};
Memory& memory() {
  static Memory once;
  return once;
}

// Every size to 130, so that with the guard behind the data every alignment of 8-bit data occurs;
// then a few larger.
std::vector<int64_t> sizes() {
  std::vector<int64_t> all;
  for (int64_t i = 0; i <= 130; ++i) all.push_back(i);
  all.insert(all.end(), {191, 192, 193, 255, 256, 257, 1000, 4099});
  return all;
}

const char* type_name(bool is_signed) { return is_signed ? "s8" : "u8"; }

class ElementwiseKernelTest : public IsaTest {
 protected:
  const ElementwiseFns& fns() const { return set().elementwise; }

  // Runs `kernel(out)` into guarded memory of `bytes` and compares with what `reference(out)`
  // writes.
  template <typename Kernel, typename Reference>
  void compare(const ElementwiseCase& c, size_t bytes, size_t align, Kernel kernel,
               Reference reference) {
    uint8_t* out = memory().out.place(bytes, c.side, align);
    {
      const RunningCase running(&c);
      kernel(out);
    }
    std::vector<uint8_t> expected(bytes + 1);
    reference(expected.data());
    ASSERT_EQ(first_difference(out, expected.data(), bytes), "") << c.describe();
    ASSERT_TRUE(memory().out.margin_intact()) << c.describe() << ": wrote beside the output";
  }

  template <typename Body>
  void for_each_size(const std::string& name, Body body) {
    ElementwiseCase c;
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
};

// Values where rounding, clamping and conversion go wrong.
float hard_float(Random& random, float scale) {
  static const std::vector<float> kSpecial = {0.0f,
                                              -0.0f,
                                              std::numeric_limits<float>::infinity(),
                                              -std::numeric_limits<float>::infinity(),
                                              std::nanf(""),
                                              -std::nanf(""),
                                              std::numeric_limits<float>::max(),
                                              std::numeric_limits<float>::lowest(),
                                              std::numeric_limits<float>::denorm_min(),
                                              -std::numeric_limits<float>::min(),
                                              2147483648.0f,
                                              -2147483904.0f,
                                              4294967296.0f,
                                              8388608.5f,
                                              12582912.0f,
                                              -12582912.0f};
  switch (random.integer(0, 3)) {
    case 0:
      return random.pick(kSpecial);
    case 1:
      return (static_cast<float>(random.integer(-300, 300)) + 0.5f) *
             scale;  // exact ties for powers of two
    case 2:
      return random.real(-300.0f, 300.0f) * scale;
    default:
      return std::nextafter((static_cast<float>(random.integer(-300, 300)) + 0.5f) * scale,
                            random.real(-1, 1));
  }
}

TEST_P(ElementwiseKernelTest, Quantize) {
  struct Range {
    int32_t lo, hi;
  };
  Random random(1);
  for (int s = 0; s < 2; ++s) {
    const int32_t qmin = s ? -128 : 0;
    for (const float scale : {0.25f, 1.0f, 0.0371f, 1e-30f, 1e30f}) {
      const float inv_scale = 1.0f / scale;
      for (int32_t zero : {0, 1, 127, 128, 255}) {
        for (const Range r : {Range{0, 255}, Range{0, 127}, Range{37, 201}}) {
          const int32_t z = zero + qmin, lo = r.lo + qmin, hi = r.hi + qmin;
          if (r.lo != 0 && zero % 2) continue;
          for_each_size(std::string("quantize ") + type_name(s), [&](const ElementwiseCase& c) {
            if (scale != 0.25f && c.size % 7 != 3) return;
            float* x = memory().a.place_array<float>(c.size, c.side);
            for (int64_t i = 0; i < c.size; ++i) x[i] = hard_float(random, scale);
            compare(
                c, c.size, 1,
                [&](void* q) { fns().quantize[s](x, c.size, inv_scale, z, lo, hi, q); },
                [&](void* q) { ref::quantize_kernel(x, c.size, inv_scale, z, lo, hi, s, q); });
          });
        }
      }
    }
  }
}

TEST_P(ElementwiseKernelTest, Dequantize) {
  Random random(2);
  for (int s = 0; s < 2; ++s) {
    for (const float scale : {0.25f, 0.0371f, 3e-39f, 1e37f}) {
      for (int32_t zero : {0, 1, 127, 128, 255}) {
        const int32_t z = zero - (s ? 128 : 0);
        for_each_size(std::string("dequantize ") + type_name(s), [&](const ElementwiseCase& c) {
          uint8_t* q = memory().a.place(c.size, c.side);
          random.fill(q, c.size);
          compare(
              c, c.size * sizeof(float), sizeof(float),
              [&](void* x) { fns().dequantize[s](q, c.size, scale, z, static_cast<float*>(x)); },
              [&](void* x) {
                for (int64_t i = 0; i < c.size; ++i) {
                  static_cast<float*>(x)[i] =
                      ref::dequantize(ref::Bytes{q, s != 0}.at(i), {scale, z});
                }
              });
        });
      }
    }
  }
}

// Scales from shrinking everything to one step to clamping nearly everything; powers of two make
// ties.
constexpr float kScales[] = {0.5f, 1.0f, 0.0137f, 0.7311f, 37.5f, 1e20f, 1e-20f};

struct Clamp {
  int32_t zero;
  float lo, hi;
};

Clamp random_clamp(Random& random, bool is_signed) {
  static const std::vector<int32_t> kZeros = {0, 1, 127, 128, 255};
  const int32_t qmin = is_signed ? -128 : 0;
  const int32_t zero = random.pick(kZeros) + qmin;
  const bool relu = random.chance(3);
  return {zero, relu ? 0.0f : static_cast<float>(qmin - zero),
          static_cast<float>(qmin + 255 - zero)};
}

TEST_P(ElementwiseKernelTest, AddAndMul) {
  Random random(3);
  for (int s = 0; s < 2; ++s) {
    for (const bool is_mul : {false, true}) {
      for (const float a_scale : kScales) {
        for_each_size(std::string(is_mul ? "mul " : "add ") + type_name(s),
                      [&](const ElementwiseCase& c) {
                        BinaryArgs args{};
                        uint8_t* a = memory().a.place(c.size, c.side);
                        uint8_t* b = memory().b.place(c.size, c.side);
                        random.fill(a, c.size);
                        random.fill(b, c.size);
                        const Clamp clamp = random_clamp(random, s);
                        args.a = a;
                        args.b = b;
                        args.size = c.size;
                        args.a_scale = a_scale;
                        args.b_scale = is_mul ? 0.0f : kScales[random.integer(0, 6)];
                        args.a_zero = random.byte() - (s ? 128 : 0);
                        args.b_zero = random.byte() - (s ? 128 : 0);
                        args.out_zero = clamp.zero;
                        args.lo = clamp.lo;
                        args.hi = clamp.hi;
                        compare(
                            c, c.size, 1,
                            [&](void* out) {
                              args.out = out;
                              (is_mul ? fns().mul : fns().add)[s](&args);
                            },
                            [&](void* out) {
                              args.out = out;
                              (is_mul ? ref::mul_kernel : ref::add_kernel)(args, s);
                            });
                      });
      }
    }
  }
}

TEST_P(ElementwiseKernelTest, Requantize) {
  Random random(4);
  for (int in_signed = 0; in_signed < 2; ++in_signed) {
    for (int out_signed = 0; out_signed < 2; ++out_signed) {
      for (const float scale : kScales) {
        const std::string name =
            std::string("requantize ") + type_name(in_signed) + "->" + type_name(out_signed);
        for_each_size(name, [&](const ElementwiseCase& c) {
          uint8_t* in = memory().a.place(c.size, c.side);
          random.fill(in, c.size);
          const Clamp clamp = random_clamp(random, out_signed);
          UnaryArgs args{};
          args.in = in;
          args.size = c.size;
          args.scale = scale;
          args.in_zero = random.byte() - (in_signed ? 128 : 0);
          args.out_zero = clamp.zero;
          args.lo = clamp.lo;
          args.hi = clamp.hi;
          compare(
              c, c.size, 1,
              [&](void* out) {
                args.out = out;
                fns().requantize[in_signed][out_signed](&args);
              },
              [&](void* out) {
                args.out = out;
                ref::requantize_kernel(args, in_signed, out_signed);
              });
        });
      }
    }
  }
}

TEST_P(ElementwiseKernelTest, Clamp) {
  Random random(5);
  for (int s = 0; s < 2; ++s) {
    const int32_t qmin = s ? -128 : 0;
    for (int round = 0; round < 4; ++round) {
      for_each_size(std::string("clamp ") + type_name(s), [&](const ElementwiseCase& c) {
        uint8_t* in = memory().a.place(c.size, c.side);
        random.fill(in, c.size);
        const int32_t lo = qmin + random.byte(), hi = random.integer(lo, qmin + 255);
        compare(
            c, c.size, 1, [&](void* out) { fns().clamp[s](in, c.size, lo, hi, out); },
            [&](void* out) {
              for (int64_t i = 0; i < c.size; ++i) {
                const int32_t q = ref::Bytes{in, s != 0}.at(i);
                ref::store_byte(out, i, s, q < lo ? lo : q > hi ? hi : q);
              }
            });
      });
    }
  }
}

TEST_P(ElementwiseKernelTest, Range) {
  Random random(6);
  enum Values { kAny, kNegativeZeros, kWithNan };
  for (const Values values : {kAny, kNegativeZeros, kWithNan}) {
    for_each_size("range, values " + std::to_string(values), [&](const ElementwiseCase& c) {
      float* x = memory().a.place_array<float>(c.size, c.side);
      for (int64_t i = 0; i < c.size; ++i) {
        do x[i] = values == kNegativeZeros ? -0.0f : hard_float(random, 0.25f);
        while (x[i] != x[i]);
      }
      const bool nan = values == kWithNan && c.size;
      if (nan) x[random.integer(0, static_cast<int>(c.size) - 1)] = std::nanf("");
      for (FloatRange range : {FloatRange{}, FloatRange{-3.5f, 7.0f}}) {
        FloatRange expected = range;
        for (int64_t i = 0; i < c.size; ++i) {
          expected.lo = std::min(expected.lo, x[i]);
          expected.hi = std::max(expected.hi, x[i]);
        }
        {
          const RunningCase running(&c);
          fns().range(x, c.size, &range);
        }
        ASSERT_EQ(nan, std::isnan(range.lo) && std::isnan(range.hi)) << c.describe();
        if (nan) continue;
        // Bits, because 0 == -0.
        ASSERT_EQ(float_bits(expected.lo), float_bits(range.lo)) << c.describe();
        ASSERT_EQ(float_bits(expected.hi), float_bits(range.hi)) << c.describe();
      }
    });
  }
}

// What a 16-bit float stands for, by its definition; NaN keeps sign and payload and becomes quiet.
uint32_t half_bits(uint16_t h, bool is_f16) {
  const uint32_t sign = uint32_t{h} >> 15 << 31;
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  if (!is_f16) return uint32_t{h} << 16;
  if (exponent == 31) return sign | 0x7f800000 | fraction << 13 | (fraction ? 0x400000 : 0);
  const float magnitude = exponent ? std::ldexp(1024.0f + fraction, exponent - 25)
                                   : std::ldexp(static_cast<float>(fraction), -24);
  return sign | float_bits(magnitude);
}

TEST_P(ElementwiseKernelTest, ToFloat) {
  for (const bool is_f16 : {false, true}) {
    uint32_t next = 0;  // every 16-bit pattern, again and again
    bool all = false;
    const auto run = [&](const ElementwiseCase& c) {
      uint16_t* halves = memory().a.place_array<uint16_t>(c.size, c.side);
      for (int64_t i = 0; i < c.size; ++i) halves[i] = static_cast<uint16_t>(next++);
      all = all || next >= 65536;
      compare(
          c, c.size * sizeof(float), sizeof(float),
          [&](void* x) { fns().to_float[is_f16](halves, c.size, static_cast<float*>(x)); },
          [&](void* x) {
            for (int64_t i = 0; i < c.size; ++i) {
              static_cast<uint32_t*>(x)[i] = half_bits(halves[i], is_f16);
            }
          });
    };
    while (!all && !HasFatalFailure()) for_each_size(is_f16 ? "float16" : "bfloat16", run);
  }
}

OCTAVO_INSTANTIATE_ISA_TESTS(ElementwiseKernelTest);

}  // namespace
}  // namespace octavo::testing
