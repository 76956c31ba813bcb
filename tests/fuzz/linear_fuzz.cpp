// One linear problem from the fuzzer's bytes, through every kernel of every ISA that runs here and
// the reference; any difference ends the run. Static and dynamic, all output kinds. Activations and
// results touch guard pages, as the kernels themselves are not instrumented.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "abi/half.h"
#include "abi/out_kind.h"
#include "cpu/dispatch.h"
#include "guard_buffer.h"
#include "ops/dynamic_linear.h"
#include "ops/linear.h"
#include "ref/reference.h"

namespace octavo {
namespace {

using testing::GuardBuffer;
using testing::Side;

// Numbers from the input while it lasts, then zeros.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t next() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  int32_t integer(int32_t lo, int32_t hi) {
    const uint32_t wide = next() | uint32_t{next()} << 8;
    return lo + static_cast<int32_t>(wide % static_cast<uint32_t>(hi - lo + 1));
  }
  bool flag() { return next() & 1; }

 private:
  const uint8_t* data_;
  size_t size_;
};

// Any bytes; each at an end of its type; all of an operand at the same end, where sums are largest.
enum class Values { kAny, kAnyToo, kEnds, kOneEnd };

// All that one problem consists of. Values come from a generator that the input seeds, so that few
// bytes make large problems.
struct Problem {
  explicit Problem(Bytes& in)
      : m(in.integer(1, 40)),
        n(in.integer(1, 80)),
        k(in.integer(0, 3) ? in.integer(1, 200) : in.integer(1, 1500)),
        is_signed(in.flag()),
        relu(in.flag()),
        values(static_cast<Values>(in.integer(0, 3))),
        engine(static_cast<uint32_t>(in.integer(0, 65535))),
        kind(static_cast<OutKind>(in.integer(0, kOutKinds - 1))),
        float_type(in.integer(0, 2)),
        dynamic{in.flag(), in.flag(), relu, in.flag()},
        input{std::exp2(static_cast<float>(in.integer(-12, 8))),
              in.integer(0, 255) - (is_signed ? 128 : 0)},
        output{std::exp2(static_cast<float>(in.integer(-10, 14))) * input.scale,
               in.integer(0, 255) - (kind == OutKind::kS8 ? 128 : 0)} {
    weights.resize(size_t{1} * n * k);
    const uint8_t same_weight = byte(), same_x = byte();
    const bool same = values == Values::kOneEnd;
    for (int8_t& w : weights) w = static_cast<int8_t>(same ? same_weight : byte());
    const bool zeros = in.flag(), with_bias = in.flag();
    for (int32_t c = 0; c < n; ++c) {
      params.scale.push_back(std::exp2(static_cast<float>(engine() % 8) - 10.0f));
      params.zero_point.push_back(zeros ? static_cast<int8_t>(byte()) : 0);
      if (with_bias) params.bias.push_back(static_cast<float>(engine() % 2001) * 0.01f - 10.0f);
    }
    x.resize(size_t{1} * m * k);
    for (uint8_t& v : x) v = same ? same_x : byte();
    make_floats(in.integer(0, 8) == 0);
    side = in.flag() ? Side::kBegin : Side::kEnd;
  }

  uint8_t byte() {
    const auto wide = static_cast<uint8_t>(engine() >> 8);
    if (values == Values::kAny || values == Values::kAnyToo) return wide;
    return static_cast<uint8_t>((wide & 1 ? 0x80 : 0x7f) + (wide & 2 ? 0x80 : 0));
  }

  void make_floats(bool with_bad) {
    floats.resize(x.size() * (float_type == 0 ? 4 : 2));
    for (int32_t i = 0; i < m * k; ++i) {
      const float size = std::exp2(static_cast<float>(i / k % 9) - 4.0f);
      float v = (static_cast<float>(engine() % 4001) - 1500.0f) * 0.001f * size;
      if (with_bad && engine() % 97 == 0) v = engine() % 2 ? NAN : -INFINITY;
      if (float_type == 0) std::memcpy(&floats[i * 4], &v, 4);
      const uint16_t half = float_type == 1 ? float_to_bf16(v) : float_to_f16(v);
      if (float_type != 0) std::memcpy(&floats[i * 2], &half, 2);
    }
  }

  ref::Layer layer() const {
    return {weights.data(),
            1,
            n,
            1,
            k,
            params.scale.data(),
            params.zero_point.data(),
            params.bias.empty() ? nullptr : params.bias.data()};
  }

  int32_t m, n, k;
  bool is_signed, relu;
  Values values;
  std::minstd_rand engine;
  OutKind kind;
  int float_type;
  DynamicSpec dynamic;
  QParams input, output;
  std::vector<int8_t> weights;
  WeightParams params;
  std::vector<uint8_t> x, floats;
  Side side;  // of arrays that touches a guard page
};

bool is_nan(OutKind kind, const uint8_t* p) {
  uint16_t half;
  float real;
  std::memcpy(&half, p, 2);
  if (kind == OutKind::kBF16) return std::isnan(bf16_to_float(half));
  if (kind == OutKind::kF16) return std::isnan(f16_to_float(half));
  std::memcpy(&real, p, 4);
  return kind == OutKind::kF32 && std::isnan(real);
}

void require_equal(const Problem& p, const char* what, OutKind kind, const GuardBuffer& result,
                   const std::vector<uint8_t>& expected) {
  const auto size = static_cast<size_t>(kind_bytes(kind));
  const uint8_t* got = result.data();
  if (!result.margin_intact()) {
    std::fprintf(stderr, "%s linear, %s: wrote beside the result\n", what, cpu::last_kernel());
    std::abort();
  }
  for (size_t i = 0; i < expected.size(); i += size) {
    if (std::memcmp(&got[i], &expected[i], size) == 0) continue;
    if (is_float(kind) && is_nan(kind, &got[i]) && is_nan(kind, &expected[i])) continue;
    std::fprintf(stderr,
                 "%s linear, %s: m=%d n=%d k=%d %s kind=%d relu=%d per_tensor=%d reduce_range=%d: "
                 "element %zu differs from the reference\n",
                 what, cpu::last_kernel(), p.m, p.n, p.k, p.is_signed ? "s8" : "u8",
                 static_cast<int>(kind), p.relu, p.dynamic.per_tensor, p.dynamic.reduce_range,
                 i / size);
    std::abort();
  }
}

// What kernels read and write: made once, as mapping memory takes longer than a small problem.
struct Arrays {
  static constexpr size_t kValues = 40 * 1500, kResults = 40 * 80;
  void fill(const Problem& p) {
    std::memcpy(x.place(p.x.size(), p.side), p.x.data(), p.x.size());
    // Aligned as floats of its width are.
    uint8_t* to = floats.place(p.floats.size(), p.side, p.float_type == 0 ? 4 : 2);
    std::memcpy(to, p.floats.data(), p.floats.size());
  }

  GuardBuffer x{kValues + GuardBuffer::kMargin}, floats{4 * kValues + GuardBuffer::kMargin},
      out{4 * kResults + GuardBuffer::kMargin};
};

void check_kernel(const Problem& p, Arrays& arrays, const std::vector<uint8_t>& expected,
                  const std::vector<uint8_t>& expected_floats) {
  const QuantizedWeight weight(p.weights.data(), {1, p.n, 1, p.k}, p.params, false);
  uint8_t* out = arrays.out.place(expected.size(), p.side, kind_bytes(p.kind));
  linear(weight, {arrays.x.data(), p.m, p.k, p.k, p.is_signed}, p.input, {p.kind, p.output, p.relu},
         out, p.n * kind_bytes(p.kind));
  require_equal(p, "static", p.kind, arrays.out, expected);
  constexpr OutKind kKinds[] = {OutKind::kF32, OutKind::kBF16, OutKind::kF16};
  const OutKind kind = kKinds[p.float_type];
  out = arrays.out.place(expected_floats.size(), p.side, kind_bytes(kind));
  dynamic_linear(weight,
                 {arrays.floats.data(), static_cast<FloatType>(p.float_type), p.m, p.k, p.k},
                 p.dynamic, out, p.n * kind_bytes(kind));
  require_equal(p, "dynamic", kind, arrays.out, expected_floats);
}

void check(const Problem& p) {
  std::vector<uint8_t> expected(p.m * p.n * kind_bytes(p.kind));
  ref::linear(p.layer(), {p.x.data(), p.is_signed}, p.m, {p.input.scale, p.input.zero_point},
              {p.kind, {p.output.scale, p.output.zero_point}, p.relu}, {}, expected.data());
  std::vector<uint8_t> floats(size_t{1} * p.m * p.n * (p.float_type == 0 ? 4 : 2));
  ref::dynamic_linear(
      p.layer(), p.floats.data(), p.m,
      {p.float_type, p.dynamic.per_tensor, p.dynamic.reduce_range, p.relu, p.dynamic.gelu},
      floats.data());
  static Arrays arrays;
  arrays.fill(p);
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    if (!isa.runnable) continue;
    cpu::force_isa(isa.name);
    check_kernel(p, arrays, expected, floats);
    for (int32_t i = 0; i < isa.table->gemm_count; ++i) {
      cpu::force_gemm_kernel(isa.table->gemm[i].name);
      check_kernel(p, arrays, expected, floats);
    }
    cpu::force_gemm_kernel(nullptr);
  }
}

}  // namespace
}  // namespace octavo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  octavo::Bytes bytes(data, size);
  octavo::check(octavo::Problem(bytes));
  return 0;
}
