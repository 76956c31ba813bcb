// Runs independent tasks on the threads that torch already has.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

namespace octavo {

// Work below this many multiply-accumulates (or bytes moved, for element-wise work) per thread runs
// serially: opening a parallel region costs a few microseconds.
constexpr int64_t kSerialGrain = 1 << 16;

using TaskFn = void (*)(void* context, int64_t task);

// Calls fn(context, i) once for each i in [0, tasks), on the pool's threads, and returns when all
// are done. `cost` is the whole work in the unit of kSerialGrain. Runs serially for one task, under
// the grain, inside another parallel region, in a forked child (the pool's threads do not exist
// there), or where there is no pool. fn must not throw.
void parallel_for(int64_t tasks, int64_t cost, TaskFn fn, void* context);

template <typename F>
void parallel_for(int64_t tasks, int64_t cost, F&& body) {
  using Body = std::remove_reference_t<F>;
  parallel_for(
      tasks, cost, [](void* context, int64_t task) { (*static_cast<Body*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Threads that a region opened now would have.
int max_threads();

// In a forked child: follow the OpenMP runtime's thread count again. For callers that have set it
// to 1 there, so that only who raises it afterwards opens regions.
void use_pool_after_fork();

struct PoolInfo {
  std::string pool;     // "OpenMP, shared with torch" or "serial"
  std::string library;  // file that provides it, or why there is none
  int threads;
};
PoolInfo pool_info();

}  // namespace octavo
