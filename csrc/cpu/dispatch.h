// Which ISA's kernels run.
#pragma once

#include <cstdint>
#include <vector>

#include "abi/kernel_abi.h"

namespace octavo::cpu {

struct IsaInfo {
  const char* name;
  bool runnable;           // this CPU has every feature the ISA requires
  uint64_t missing;        // bits of cpu::Feature that it lacks
  const KernelSet* table;  // kernels are only safe to call where runnable
};

// Every ISA this library was built with, best first.
const std::vector<IsaInfo>& isas();

// The kernels in use. The first call reads OCTAVO_ISA; without it the best runnable ISA is taken.
// Throws std::runtime_error / std::invalid_argument as force_isa does where OCTAVO_ISA names one
// that cannot be used.
const KernelSet& kernels();

// Uses `name` from now on; nullptr returns to OCTAVO_ISA or the best. Throws std::invalid_argument
// for a name this library was not built with, std::runtime_error for one this CPU cannot run.
// Nothing falls back silently.
void force_isa(const char* name);

// Restricts GEMM selection to the kernel of this name within the active ISA, test-only kernels
// included; nullptr lifts the restriction. For tests and benchmarks. Throws std::invalid_argument
// for a name the active ISA does not have.
void force_gemm_kernel(const char* name);
bool gemm_kernel_is_forced();

// The format that weights are packed in under the active (or forced) kernels.
PackFormat active_format(const KernelSet& set);

// The kernel for an m x n problem among those of `set` that read `format`, or nullptr if there is
// none.
const GemmKernel* select_gemm(const KernelSet& set, const PackFormat& format, int64_t m, int32_t n);

// Name of the last kernel that this thread's calls chose; "none" before the first.
const char* last_kernel();
void set_last_kernel(const char* name);

inline bool same_format(const PackFormat& a, const PackFormat& b) {
  return a.nr == b.nr && a.kr == b.kr && a.nr_tail == b.nr_tail;
}

}  // namespace octavo::cpu
