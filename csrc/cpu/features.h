// What this CPU can run, as the operating system lets it.
#pragma once

#include <cstdint>

namespace octavo::cpu {

enum class Feature : int {
#define OCTAVO_CPU_FEATURE(name, description) name,
#include "cpu/features.inc"
#undef OCTAVO_CPU_FEATURE
  count
};

constexpr uint64_t bit(Feature f) { return uint64_t{1} << static_cast<int>(f); }

struct FeatureInfo {
  const char* name;
  const char* description;
};
const FeatureInfo& feature_info(Feature f);

// Features that the CPU has and the operating system has enabled, bits of Feature, detected at the
// first call. On x86 CPUID together with XCR0, and for AMX Linux's permission, which is asked for
// here once; on ARM what the system says: getauxval, sysctlbyname or IsProcessorFeaturePresent.
uint64_t features();

// The subset of features() that a loaded emulator provides rather than the CPU. A library that
// exports `const char* octavo_emulated_cpu_features()` (comma-separated names) is such an emulator;
// tests/amx_emulator is one.
uint64_t emulated_features();

}  // namespace octavo::cpu
