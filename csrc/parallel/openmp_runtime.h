// An OpenMP runtime that is in the process already, called by its compilers' entry points.
#pragma once

#include <cstdint>
#include <string>

namespace octavo {

// What LLVM's entry points are told of the place in a source that calls them.
struct LlvmSourcePlace {
  int32_t reserved_1;
  int32_t flags;
  int32_t reserved_2;
  int32_t reserved_3;
  const char* place;
};

struct OpenMpRuntime {
  // One of the two is enough: `#pragma omp parallel` as gcc compiles it, and as LLVM does.
  void (*gnu_parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  void (*llvm_fork_call)(LlvmSourcePlace*, int32_t, void*, ...) = nullptr;
  int (*max_threads)() = nullptr;
  int (*in_parallel)() = nullptr;
  std::string library;  // the file

  bool usable() const { return (gnu_parallel || llvm_fork_call) && max_threads && in_parallel; }

  // fn(argument) on every thread of a team of the runtime's own size, the caller among them. A
  // smaller team would make libgomp end workers, and start new ones for the next region.
  void run_team(void (*fn)(void*), void* argument) const;
};

// The runtime whose functions find(context, name) returns, null for those that it lacks.
OpenMpRuntime openmp_runtime(void* (*find)(void* context, const char* name), void* context);

// The runtime that torch has loaded; not usable() where there is none.
//
// Torch carries libgomp.so.1 on Linux, libomp.dylib (LLVM's) on macOS and libiomp5md.dll (Intel's,
// LLVM's code) on Windows. gcc's entry point is taken where there is one; the last has LLVM's only.
OpenMpRuntime find_loaded_openmp();

}  // namespace octavo
