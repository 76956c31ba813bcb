// Time that calls from Python spend in drivers, for those who ask where a network's time goes.
// While the clock stands, a call pays for one read of a flag.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <cstdint>

namespace octavo::bind {

// kLayout: nothing but moving values to where a kernel wants them.
enum class Work : uint8_t { kCompute = 0, kLayout = 1 };

class Clock {
 public:
  // Sets the sums to 0 and lets the clock run.
  void start() {
    for (auto& sum : nanoseconds_) sum = 0;
    runs_ = true;
  }
  void stop() { runs_ = false; }
  bool runs() const { return runs_.load(std::memory_order_relaxed); }
  void add(Work work, int64_t nanoseconds) { nanoseconds_[static_cast<int>(work)] += nanoseconds; }
  int64_t nanoseconds(Work work) const { return nanoseconds_[static_cast<int>(work)]; }

 private:
  std::atomic<bool> runs_{false};
  std::atomic<int64_t> nanoseconds_[2]{};
};

inline Clock& driver_clock() {
  static Clock clock;
  return clock;
}

// Adds its lifetime to the clock.
template <Work kWork>
class Clocked {
 public:
  Clocked() : runs_(driver_clock().runs()) {
    if (runs_) start_ = Time::now();
  }
  ~Clocked() {
    if (!runs_) return;
    const auto spent = Time::now() - start_;
    driver_clock().add(kWork, std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count());
  }
  Clocked(const Clocked&) = delete;
  Clocked& operator=(const Clocked&) = delete;

 private:
  using Time = std::chrono::steady_clock;
  bool runs_;
  Time::time_point start_;
};

// Guards of everything that computes, and of what only moves values: counted, without the GIL.
using Release = pybind11::call_guard<Clocked<Work::kCompute>, pybind11::gil_scoped_release>;
using LayoutRelease = pybind11::call_guard<Clocked<Work::kLayout>, pybind11::gil_scoped_release>;

}  // namespace octavo::bind
