// Borrows the OpenMP pool that libtorch brought into the process, without linking an OpenMP
// library.
//
// Linking one, or compiling with -fopenmp, would put a second runtime beside torch's as soon as the
// two files differ: two pools that spin against each other, of which torch.set_num_threads governs
// only one. GOMP_parallel is the stable entry point behind `#pragma omp parallel` in gcc's ABI;
// LLVM's and Intel's runtimes export it too.
#include <atomic>
#include <mutex>

#include "parallel/parallel.h"

#if !defined(_WIN32)
#include <dlfcn.h>
#include <pthread.h>
#endif

namespace octavo {
namespace {

struct OpenMp {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  int (*max_threads)() = nullptr;
  int (*in_parallel)() = nullptr;
  std::string library;

  bool usable() const { return parallel && max_threads && in_parallel; }
};

std::atomic<bool> in_forked_child{false};

#if !defined(_WIN32)

OpenMp resolve(void* handle) {
  OpenMp omp;
  omp.parallel = reinterpret_cast<decltype(omp.parallel)>(dlsym(handle, "GOMP_parallel"));
  omp.max_threads =
      reinterpret_cast<decltype(omp.max_threads)>(dlsym(handle, "omp_get_max_threads"));
  omp.in_parallel = reinterpret_cast<decltype(omp.in_parallel)>(dlsym(handle, "omp_in_parallel"));
  Dl_info info;
  if (omp.usable() && dladdr(reinterpret_cast<void*>(omp.parallel), &info) && info.dli_fname) {
    omp.library = info.dli_fname;
  }
  return omp;
}

OpenMp find_openmp() {
  pthread_atfork(nullptr, nullptr, [] { in_forked_child.store(true, std::memory_order_relaxed); });
  OpenMp omp = resolve(RTLD_DEFAULT);
  if (omp.usable()) return omp;
  // A torch whose dependencies were not loaded globally: look among them.
  for (const char* name : {"libtorch_cpu.so", "libtorch_cpu.dylib"}) {
    if (void* handle = dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) {
      omp = resolve(handle);
      dlclose(handle);
      if (omp.usable()) return omp;
    }
  }
  return {};
}

#else

OpenMp find_openmp() { return {}; }

#endif

const OpenMp& openmp() {
  static const OpenMp once = find_openmp();
  return once;
}

struct Region {
  TaskFn fn;
  void* context;
  int64_t tasks;
  std::atomic<int64_t> next{0};
};

// Every thread of the team takes the next task until none is left, so a thread that starts late
// costs little.
void run_region(void* argument) {
  Region& region = *static_cast<Region*>(argument);
  for (;;) {
    const int64_t task = region.next.fetch_add(1, std::memory_order_relaxed);
    if (task >= region.tasks) return;
    region.fn(region.context, task);
  }
}

bool pool_available() {
  return openmp().usable() && !in_forked_child.load(std::memory_order_relaxed) &&
         !openmp().in_parallel();
}

}  // namespace

void parallel_for(int64_t tasks, int64_t cost, TaskFn fn, void* context) {
  if (tasks > 1 && cost > kSerialGrain && pool_available() && openmp().max_threads() > 1) {
    Region region{fn, context, tasks};
    // 0 threads = torch's own team: a smaller team makes libgomp end workers and start new ones for
    // the next region.
    openmp().parallel(run_region, &region, 0, 0);
    return;
  }
  for (int64_t task = 0; task < tasks; ++task) fn(context, task);
}

void use_pool_after_fork() { in_forked_child.store(false, std::memory_order_relaxed); }

int max_threads() { return pool_available() ? openmp().max_threads() : 1; }

PoolInfo pool_info() {
  if (in_forked_child.load(std::memory_order_relaxed)) {
    return {"serial", "forked child: the parent's pool has no threads here", 1};
  }
  if (!openmp().usable()) return {"serial", "no OpenMP runtime is loaded in this process", 1};
  return {"OpenMP, shared with torch", openmp().library, max_threads()};
}

}  // namespace octavo
