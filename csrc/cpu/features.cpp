#include "cpu/features.h"

#include <string_view>

#include "cpu/detect.h"

#if defined(__linux__)
#include <dlfcn.h>
#endif

namespace octavo::cpu {
namespace {

constexpr FeatureInfo kInfo[] = {
#define OCTAVO_CPU_FEATURE(name, description) {#name, description},
#include "cpu/features.inc"
#undef OCTAVO_CPU_FEATURE
};

uint64_t detect() {
#if defined(__x86_64__) || defined(_M_X64)
  return detect_x86();
#elif defined(__aarch64__) || defined(_M_ARM64)
  return detect_arm();
#else
  return 0;
#endif
}

#if defined(__linux__)

uint64_t parse_features(std::string_view names) {
  uint64_t found = 0;
  while (!names.empty()) {
    const size_t comma = names.find(',');
    const std::string_view name = names.substr(0, comma);
    for (int i = 0; i < static_cast<int>(Feature::count); ++i) {
      if (name == kInfo[i].name) found |= bit(static_cast<Feature>(i));
    }
    names = comma == std::string_view::npos ? std::string_view{} : names.substr(comma + 1);
  }
  return found;
}

uint64_t ask_emulator() {
  using EmulatedFeatures = const char* (*)();
  const auto ask =
      reinterpret_cast<EmulatedFeatures>(dlsym(RTLD_DEFAULT, "octavo_emulated_cpu_features"));
  return ask ? parse_features(ask()) : 0;
}

#else

uint64_t ask_emulator() { return 0; }

#endif

struct Detected {
  uint64_t native = detect();
  uint64_t emulated = ask_emulator() & ~native;
};

const Detected& detected() {
  static const Detected once;
  return once;
}

}  // namespace

const FeatureInfo& feature_info(Feature f) { return kInfo[static_cast<int>(f)]; }
uint64_t features() { return detected().native | detected().emulated; }
uint64_t emulated_features() { return detected().emulated; }

}  // namespace octavo::cpu
