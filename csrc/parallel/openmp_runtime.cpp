#include "parallel/openmp_runtime.h"

#include <string_view>

#if defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <dlfcn.h>
#endif
#if defined(__APPLE__)
#include <mach-o/dyld.h>
#endif

namespace octavo {
namespace {

struct TeamCall {
  void (*fn)(void*);
  void* argument;
};

// What LLVM's runtime runs on each thread; the numbers are the thread's, globally and in its team.
void llvm_microtask(int32_t*, int32_t*, TeamCall* call) { call->fn(call->argument); }

template <typename Function>
void set(Function& function, void* found) {
  function = reinterpret_cast<Function>(found);
}

#if defined(_WIN32)

void* find_in_module(void* module, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(module), name));
}

std::string file_of(HMODULE module) {
  char path[1024];
  const DWORD length = GetModuleFileNameA(module, path, sizeof(path));
  return std::string(path, length);
}

#else

void* find_by_handle(void* handle, const char* name) { return dlsym(handle, name); }

OpenMpRuntime runtime_behind(void* handle) {
  OpenMpRuntime runtime = openmp_runtime(find_by_handle, handle);
  Dl_info info;
  if (runtime.usable() && dladdr(reinterpret_cast<void*>(runtime.max_threads), &info) &&
      info.dli_fname) {
    runtime.library = info.dli_fname;
  }
  return runtime;
}

// Of a library that is loaded and stays so, and of those that it depends on.
OpenMpRuntime runtime_behind_library(const char* path) {
  void* const handle = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
  if (!handle) return {};
  OpenMpRuntime runtime = runtime_behind(handle);
  dlclose(handle);
  return runtime;
}

#endif

}  // namespace

void OpenMpRuntime::run_team(void (*fn)(void*), void* argument) const {
  if (gnu_parallel) {
    gnu_parallel(fn, argument, 0, 0);
    return;
  }
  constexpr int32_t kCompiledByLlvm = 2;
  LlvmSourcePlace place{0, kCompiledByLlvm, 0, 0, ";unknown;unknown;0;0;;"};
  TeamCall call{fn, argument};
  llvm_fork_call(&place, 1, reinterpret_cast<void*>(llvm_microtask), &call);
}

OpenMpRuntime openmp_runtime(void* (*find)(void*, const char*), void* context) {
  OpenMpRuntime runtime;
  set(runtime.gnu_parallel, find(context, "GOMP_parallel"));
  set(runtime.llvm_fork_call, find(context, "__kmpc_fork_call"));
  set(runtime.max_threads, find(context, "omp_get_max_threads"));
  set(runtime.in_parallel, find(context, "omp_in_parallel"));
  return runtime;
}

#if defined(_WIN32)

OpenMpRuntime find_loaded_openmp() {
  // Torch's first; the others are LLVM's runtime under the names of Microsoft and of LLVM.
  for (const char* name :
       {"libiomp5md.dll", "libomp140.x86_64.dll", "libomp140.aarch64.dll", "libomp.dll"}) {
    const HMODULE module = GetModuleHandleA(name);
    if (!module) continue;
    OpenMpRuntime runtime = openmp_runtime(find_in_module, module);
    runtime.library = file_of(module);
    if (runtime.usable()) return runtime;
  }
  return {};
}

#elif defined(__APPLE__)

OpenMpRuntime find_loaded_openmp() {
  // Other packages carry a libomp.dylib of their own, so the one that torch is linked with is asked
  // for. Torch from conda or Homebrew has it elsewhere, but as much a dependency.
  constexpr std::string_view kTorch = "/libtorch_cpu.dylib";
  for (uint32_t i = 0; i < _dyld_image_count(); ++i) {
    const char* const path = _dyld_get_image_name(i);
    if (!path || !std::string_view(path).ends_with(kTorch)) continue;
    OpenMpRuntime runtime = runtime_behind_library(path);
    if (runtime.usable()) return runtime;
  }
  return runtime_behind(RTLD_DEFAULT);
}

#else

OpenMpRuntime find_loaded_openmp() {
  OpenMpRuntime runtime = runtime_behind(RTLD_DEFAULT);
  if (runtime.usable()) return runtime;
  // A torch whose dependencies were not loaded globally: look among them.
  return runtime_behind_library("libtorch_cpu.so");
}

#endif

}  // namespace octavo
