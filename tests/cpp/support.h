// What all C++ tests share: which ISAs they test, random numbers, and the name of the case that is
// running.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cpu/dispatch.h"

namespace octavo::testing {

// ISAs that this process tests: the one that OCTAVO_TEST_ISA names, or else every one this CPU can
// run.
std::vector<std::string> isas_under_test();

// Those of them with a line kernel: of x86, the ones without VNNI (avx2, avx512).
std::vector<std::string> isas_with_lines();

// The row of cpu::isas() with this name, or nullptr.
const cpu::IsaInfo* find_isa(const std::string& name);

// "avx512_vnni, amx_int8" for the features that `isa` needs and this CPU lacks.
std::string missing_features(const cpu::IsaInfo& isa);

// Whether a loaded emulator executes this ISA's instructions, each of which then costs a
// microsecond or two.
bool is_emulated(const std::string& isa);

// Prints which ISA a fresh process chooses and which kernel a linear layer then ran, or the error.
// For tests of OCTAVO_ISA, which start this binary again with --report-active-isa.
int report_active_isa();

// Forces an ISA for a scope and checks that it is the one in use.
class ForcedIsa {
 public:
  explicit ForcedIsa(const std::string& name, const char* kernel = nullptr);
  ~ForcedIsa();
  ForcedIsa(const ForcedIsa&) = delete;
  ForcedIsa& operator=(const ForcedIsa&) = delete;
  const KernelSet& set() const { return cpu::kernels(); }
};

// Tests that run once for each ISA under test, with that ISA forced.
class IsaTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { forced_ = std::make_unique<ForcedIsa>(GetParam()); }
  void TearDown() override {
    // A test that ran anything must have run the kernels it was told to.
    const std::string last = cpu::last_kernel();
    EXPECT_STREQ(cpu::kernels().isa, GetParam().c_str());
    if (last != "none" && checks_last_kernel_) {
      EXPECT_TRUE(last.ends_with("__" + GetParam())) << last;
    }
    forced_.reset();
  }
  const KernelSet& set() const { return cpu::kernels(); }
  bool emulated() const { return is_emulated(GetParam()); }
  bool checks_last_kernel_ = false;  // set by tests that call drivers

 private:
  std::unique_ptr<ForcedIsa> forced_;
};

std::string isa_test_name(const ::testing::TestParamInfo<std::string>& info);

#define OCTAVO_INSTANTIATE_ISA_TESTS(suite)                                                     \
  INSTANTIATE_TEST_SUITE_P(Isa, suite, ::testing::ValuesIn(octavo::testing::isas_under_test()), \
                           octavo::testing::isa_test_name)

// For suites of what only some ISAs have; a process that tests none of these runs nothing.
#define OCTAVO_INSTANTIATE_LINE_TESTS(suite)                                                    \
  GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(suite);                                         \
  INSTANTIATE_TEST_SUITE_P(Isa, suite, ::testing::ValuesIn(octavo::testing::isas_with_lines()), \
                           octavo::testing::isa_test_name)

// Deterministic; each case seeds its own.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed * 0x9E3779B97F4A7C15u + 1) {}
  int32_t integer(int32_t lo, int32_t hi) {
    const uint64_t count = static_cast<uint64_t>(int64_t{hi} - lo) + 1;
    return static_cast<int32_t>(lo + static_cast<int64_t>(engine_() % count));
  }
  float real(float lo, float hi) {
    return lo + (hi - lo) * static_cast<float>(engine_() >> 40) * 0x1p-24f;
  }
  bool chance(int in) { return integer(0, in - 1) == 0; }
  template <typename T>
  T pick(const std::vector<T>& from) {
    return from[static_cast<size_t>(integer(0, static_cast<int32_t>(from.size()) - 1))];
  }
  // All 256 values, with extra weight on the ends and their neighbours.
  uint8_t byte() {
    if (!chance(4)) return static_cast<uint8_t>(engine_() >> 32);
    static constexpr uint8_t kEnds[] = {0, 1, 127, 128, 129, 254, 255};
    return kEnds[integer(0, 6)];
  }
  void fill(void* data, size_t size) {
    for (size_t i = 0; i < size; ++i) static_cast<uint8_t*>(data)[i] = byte();
  }

 private:
  std::mt19937_64 engine_;
};

// Named in the message when a guard page is hit, where no assertion can speak. Points to a function
// that writes the case's description; see test_main.cpp.
struct CaseDescriber {
  virtual ~CaseDescriber() = default;
  virtual std::string describe() const = 0;
};
class RunningCase {
 public:
  explicit RunningCase(const CaseDescriber* describer);
  ~RunningCase();
  RunningCase(const RunningCase&) = delete;
  RunningCase& operator=(const RunningCase&) = delete;
};

// "byte 12 of 300: got 7, expected 8" for the first difference, or "" where there is none.
std::string first_difference(const void* got, const void* expected, size_t size);

const char* kind_name(OutKind kind);
inline size_t kind_size(OutKind kind) {
  if (kind == OutKind::kU8 || kind == OutKind::kS8) return 1;
  return kind == OutKind::kBF16 || kind == OutKind::kF16 ? 2 : 4;
}
constexpr OutKind kAllKinds[] = {OutKind::kI32, OutKind::kU8,   OutKind::kS8,
                                 OutKind::kF32, OutKind::kBF16, OutKind::kF16};

}  // namespace octavo::testing
