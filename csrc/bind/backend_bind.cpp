#include <pybind11/stl.h>

#include <cstring>

#include "bind/bindings.h"
#include "bind/clock.h"
#include "cpu/dispatch.h"
#include "cpu/features.h"
#include "parallel/parallel.h"

namespace py = pybind11;

namespace octavo::bind {
namespace {

// {name: "no" | "yes" | "emulated"}
py::dict cpu_features() {
  py::dict found;
  for (int i = 0; i < static_cast<int>(cpu::Feature::count); ++i) {
    const auto f = static_cast<cpu::Feature>(i);
    const bool emulated = (cpu::emulated_features() & cpu::bit(f)) != 0;
    const bool present = (cpu::features() & cpu::bit(f)) != 0;
    found[cpu::feature_info(f).name] = py::make_tuple(emulated  ? "emulated"
                                                      : present ? "yes"
                                                                : "no",
                                                      cpu::feature_info(f).description);
  }
  return found;
}

py::list isas() {
  py::list rows;
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    py::list missing;
    for (int i = 0; i < static_cast<int>(cpu::Feature::count); ++i) {
      const auto f = static_cast<cpu::Feature>(i);
      if (isa.missing & cpu::bit(f)) missing.append(cpu::feature_info(f).name);
    }
    rows.append(py::make_tuple(isa.name, isa.runnable, missing));
  }
  return rows;
}

py::list kernels(const std::string& isa) {
  for (const cpu::IsaInfo& info : cpu::isas()) {
    if (isa != info.name) continue;
    py::list names;
    for (int i = 0; i < info.table->gemm_count; ++i) {
      if (!(info.table->gemm[i].flags & kTestOnly)) names.append(info.table->gemm[i].name);
    }
    if (info.table->lines) names.append(info.table->lines->name);
    for (int i = 0; i < info.table->window_count; ++i) names.append(info.table->window[i].name);
    return names;
  }
  throw std::invalid_argument("kernels: this build has no ISA '" + isa + "'");
}

// Runs the active ISA's roof loop on this thread; returns the multiply-accumulates done.
int64_t run_peak(int64_t steps) {
  const py::gil_scoped_release release;
  const KernelSet& set = cpu::kernels();
  if (set.task_begin) set.task_begin();
  const int64_t macs = set.peak(steps);
  if (set.task_end) set.task_end();
  return macs;
}

// Reads memory `repeats` times with the active ISA's widest loads, on this thread.
int64_t run_read(uintptr_t address, int64_t size, int64_t repeats) {
  if (address % 64 != 0 || size < 256 || size % 256 != 0) {
    throw std::invalid_argument("run_read: needs an address on a cache line and whole 256 bytes");
  }
  const py::gil_scoped_release release;
  const KernelSet& set = cpu::kernels();
  int64_t sum = 0;
  for (int64_t i = 0; i < repeats; ++i)
    sum ^= set.read(reinterpret_cast<const void*>(address), size);
  return sum;
}

py::dict parallel_info() {
  const PoolInfo info = pool_info();
  py::dict d;
  d["pool"] = info.pool;
  d["library"] = info.library;
  d["threads"] = info.threads;
  return d;
}

}  // namespace

void add_backend(py::module_& m) {
  m.def("cpu_features", cpu_features);
  m.def("isas", isas);
  m.def("kernels", kernels, py::arg("isa"));
  m.def("current_isa", [] { return cpu::kernels().isa; });
  m.def(
      "force_isa",
      [](const std::optional<std::string>& name) {
        cpu::force_isa(name ? name->c_str() : nullptr);
      },
      py::arg("name"));
  m.def(
      "force_gemm_kernel",
      [](const std::optional<std::string>& name) {
        cpu::force_gemm_kernel(name ? name->c_str() : nullptr);
      },
      py::arg("name"));
  m.def("run_peak", run_peak, py::arg("steps"));
  m.def("run_read", run_read, py::arg("address"), py::arg("size"), py::arg("repeats"));
  m.def("last_kernel", cpu::last_kernel);
  m.def("start_clock", [] { driver_clock().start(); });
  // Nanoseconds since the start, in calls that compute and in calls that only move values.
  m.def("stop_clock", [] {
    driver_clock().stop();
    return py::make_tuple(driver_clock().nanoseconds(Work::kCompute),
                          driver_clock().nanoseconds(Work::kLayout));
  });
  m.def("use_pool_after_fork", use_pool_after_fork);
  m.def("parallel_info", parallel_info);
}

}  // namespace octavo::bind
