// Borrows the OpenMP pool that libtorch brought into the process, without linking an OpenMP
// library.
//
// Linking one, or compiling with -fopenmp, would put a second runtime beside torch's as soon as the
// two files differ: two pools that spin against each other, of which torch.set_num_threads governs
// only one.
#include <atomic>

#include "parallel/openmp_runtime.h"
#include "parallel/parallel.h"

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace octavo {
namespace {

std::atomic<bool> in_forked_child{false};

OpenMpRuntime find_openmp() {
#if !defined(_WIN32)
  pthread_atfork(nullptr, nullptr, [] { in_forked_child.store(true, std::memory_order_relaxed); });
#endif
  return find_loaded_openmp();
}

const OpenMpRuntime& openmp() {
  static const OpenMpRuntime once = find_openmp();
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
    openmp().run_team(run_region, &region);
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
