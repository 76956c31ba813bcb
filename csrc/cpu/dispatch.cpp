#include "cpu/dispatch.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/features.h"

#define OCTAVO_ISA(name, required) extern "C" const octavo::KernelSet* OCTAVO_ISA_TABLE(name)();
#include "isa_registry.inc"
#undef OCTAVO_ISA

namespace octavo::cpu {
namespace {

std::atomic<const KernelSet*> active{nullptr};
std::atomic<const GemmKernel*> forced_gemm{nullptr};
thread_local const char* last = "none";

std::vector<IsaInfo> build_list() {
  const uint64_t have = features();
  std::vector<IsaInfo> list;
#define OCTAVO_ISA(name, required) \
  list.push_back({#name, ((required) & ~have) == 0, (required) & ~have, OCTAVO_ISA_TABLE(name)()});
#include "isa_registry.inc"
#undef OCTAVO_ISA
  return list;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

std::string names_of(uint64_t bits) {
  std::vector<std::string> words;
  for (int i = 0; i < static_cast<int>(Feature::count); ++i) {
    const auto f = static_cast<Feature>(i);
    if (bits & bit(f)) words.push_back(feature_info(f).name);
  }
  return joined(words);
}

std::string runnable_names() {
  std::vector<std::string> words;
  for (const IsaInfo& isa : isas()) {
    if (isa.runnable) words.push_back(isa.name);
  }
  return joined(words);
}

const KernelSet* find_isa(const char* name, const char* origin) {
  std::vector<std::string> built;
  for (const IsaInfo& isa : isas()) {
    built.push_back(isa.name);
    if (std::strcmp(isa.name, name) != 0) continue;
    if (isa.runnable) return isa.table;
    throw std::runtime_error(std::string(origin) + ": this CPU cannot run '" + name +
                             "': it lacks " + names_of(isa.missing) +
                             ". It can run: " + runnable_names());
  }
  throw std::invalid_argument(std::string(origin) + ": unknown ISA '" + name +
                              "'. This build of Octavo has: " + joined(built));
}

const KernelSet* default_isa() {
  if (const char* name = std::getenv("OCTAVO_ISA"); name && *name)
    return find_isa(name, "OCTAVO_ISA");
  for (const IsaInfo& isa : isas()) {
    if (isa.runnable) return isa.table;
  }
  throw std::runtime_error(
      "Octavo was built without an ISA that this CPU can run, not even 'scalar'");
}

bool same_name(const GemmKernel& kernel, const char* name) {
  return std::strcmp(kernel.name, name) == 0;
}

}  // namespace

const std::vector<IsaInfo>& isas() {
  static const std::vector<IsaInfo> list = build_list();
  return list;
}

const KernelSet& kernels() {
  const KernelSet* set = active.load(std::memory_order_acquire);
  if (set) return *set;
  // Two threads may both get here; they compute the same answer, and a force_isa() between them
  // wins.
  const KernelSet* chosen = default_isa();
  const KernelSet* expected = nullptr;
  active.compare_exchange_strong(expected, chosen, std::memory_order_acq_rel);
  return *active.load(std::memory_order_acquire);
}

void force_isa(const char* name) {
  const KernelSet* set = name ? find_isa(name, "force") : default_isa();
  forced_gemm.store(nullptr, std::memory_order_release);
  active.store(set, std::memory_order_release);
}

void force_gemm_kernel(const char* name) {
  if (!name) {
    forced_gemm.store(nullptr, std::memory_order_release);
    return;
  }
  const KernelSet& set = kernels();
  for (int i = 0; i < set.gemm_count; ++i) {
    if (!same_name(set.gemm[i], name)) continue;
    forced_gemm.store(&set.gemm[i], std::memory_order_release);
    return;
  }
  throw std::invalid_argument(std::string("force_gemm_kernel: ISA '") + set.isa +
                              "' has no kernel '" + name + "'");
}

bool gemm_kernel_is_forced() { return forced_gemm.load(std::memory_order_acquire) != nullptr; }

PackFormat active_format(const KernelSet& set) {
  const GemmKernel* forced = forced_gemm.load(std::memory_order_acquire);
  return forced ? forced->format : set.gemm[0].format;
}

const GemmKernel* select_gemm(const KernelSet& set, const PackFormat& format, int64_t m,
                              int32_t n) {
  if (const GemmKernel* forced = forced_gemm.load(std::memory_order_acquire)) {
    return same_format(forced->format, format) ? forced : nullptr;
  }
  for (int i = 0; i < set.gemm_count; ++i) {
    const GemmKernel& kernel = set.gemm[i];
    if ((kernel.flags & kTestOnly) || !same_format(kernel.format, format)) continue;
    if (std::max<int64_t>(m, 1) >= kernel.min_m && n <= kernel.max_n) return &kernel;
  }
  return nullptr;
}

const char* last_kernel() { return last; }
void set_last_kernel(const char* name) { last = name; }

}  // namespace octavo::cpu
