#include "support.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "cpu/features.h"
#include "ops/linear.h"

namespace octavo::testing {

std::vector<std::string> isas_under_test() {
  if (const char* name = std::getenv("OCTAVO_TEST_ISA"); name && *name) return {name};
  std::vector<std::string> names;
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    if (isa.runnable) names.push_back(isa.name);
  }
  return names;
}

std::vector<std::string> isas_with_lines() {
  std::vector<std::string> names;
  for (const std::string& name : isas_under_test()) {
    if (const cpu::IsaInfo* isa = find_isa(name); isa && isa->table->lines) names.push_back(name);
  }
  return names;
}

const cpu::IsaInfo* find_isa(const std::string& name) {
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    if (name == isa.name) return &isa;
  }
  return nullptr;
}

std::string missing_features(const cpu::IsaInfo& isa) {
  std::string text;
  for (int i = 0; i < static_cast<int>(cpu::Feature::count); ++i) {
    const auto f = static_cast<cpu::Feature>(i);
    if (isa.missing & cpu::bit(f))
      text += (text.empty() ? "" : ", ") + std::string(cpu::feature_info(f).name);
  }
  return text;
}

bool is_emulated(const std::string& isa) {
  return isa.starts_with("amx") &&
         (cpu::emulated_features() & cpu::bit(cpu::Feature::amx_tile)) != 0;
}

int report_active_isa() {
  try {
    const int8_t w = 1;
    const QuantizedWeight weight(&w, {1, 1, 1, 1}, {{1.0f}, {0}, {}}, false);
    const uint8_t x = 3;
    uint8_t y = 0;
    linear(weight, {&x, 1, 1, 1, false}, {1.0f, 0}, {OutKind::kU8, {1.0f, 0}, false}, &y, 1);
    std::printf("isa=%s kernel=%s result=%d\n", cpu::kernels().isa, cpu::last_kernel(), y);
    return 0;
  } catch (const std::exception& error) {
    std::printf("error=%s\n", error.what());
    return 1;
  }
}

ForcedIsa::ForcedIsa(const std::string& name, const char* kernel) {
  cpu::force_isa(name.c_str());
  if (kernel) cpu::force_gemm_kernel(kernel);
  EXPECT_STREQ(cpu::kernels().isa, name.c_str());
}

ForcedIsa::~ForcedIsa() {
  cpu::force_gemm_kernel(nullptr);
  cpu::force_isa(nullptr);
}

std::string isa_test_name(const ::testing::TestParamInfo<std::string>& info) { return info.param; }

std::string first_difference(const void* got, const void* expected, size_t size) {
  const auto* a = static_cast<const uint8_t*>(got);
  const auto* b = static_cast<const uint8_t*>(expected);
  if (size == 0 || std::memcmp(a, b, size) == 0) return "";
  size_t i = 0;
  while (a[i] == b[i]) ++i;
  return "byte " + std::to_string(i) + " of " + std::to_string(size) + ": got " +
         std::to_string(a[i]) + ", expected " + std::to_string(b[i]);
}

const char* kind_name(OutKind kind) {
  switch (kind) {
    case OutKind::kI32:
      return "i32";
    case OutKind::kU8:
      return "u8";
    case OutKind::kS8:
      return "s8";
    case OutKind::kF32:
      return "f32";
    case OutKind::kBF16:
      return "bf16";
    case OutKind::kF16:
      return "f16";
  }
  return "?";
}

}  // namespace octavo::testing
