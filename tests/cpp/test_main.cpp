// OCTAVO_TEST_ISA=<name> restricts a run to one ISA. Exit code 77 (skipped, to ctest) only where
// this CPU lacks it, with the features it lacks; an ISA that was not built is a failure.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "support.h"

namespace octavo::testing {

namespace {

const CaseDescriber* running = nullptr;

// Formatting here is not async-signal-safe; the process is lost already, and the name of the case
// is worth the risk. Sanitizers report faults themselves.
[[maybe_unused]] void on_fault(int signal) {
  std::fprintf(stderr, "\nfatal signal %d (%s) in case: %s\n", signal, strsignal(signal),
               running ? running->describe().c_str() : "no kernel case");
  std::fflush(stderr);
  std::_Exit(1);
}

constexpr int kSkipped = 77;

int check_isa(const char* name) {
  const cpu::IsaInfo* isa = find_isa(name);
  if (!isa) {
    std::fprintf(stderr, "OCTAVO_TEST_ISA=%s: this build has no such ISA\n", name);
    return 1;
  }
  if (!isa->runnable) {
    std::printf("SKIPPED: ISA %s not tested, this CPU lacks %s\n", name,
                missing_features(*isa).c_str());
    return kSkipped;
  }
  std::printf("testing ISA %s%s\n", name, is_emulated(name) ? " (emulated)" : "");
  return 0;
}

}  // namespace

RunningCase::RunningCase(const CaseDescriber* describer) { running = describer; }
RunningCase::~RunningCase() { running = nullptr; }

}  // namespace octavo::testing

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--report-active-isa") == 0)
    return octavo::testing::report_active_isa();
  if (const char* name = std::getenv("OCTAVO_TEST_ISA"); name && *name) {
    if (const int code = octavo::testing::check_isa(name)) return code;
  }
#if !defined(__SANITIZE_ADDRESS__)
  std::signal(SIGSEGV, octavo::testing::on_fault);
  std::signal(SIGBUS, octavo::testing::on_fault);
#endif
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
