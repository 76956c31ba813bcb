// parallel_for and the drivers on it. Built twice: without an OpenMP runtime in the process, where
// all runs serially, and with one, as torch brings it.
#include "parallel/parallel.h"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <thread>

#include "layer_case.h"
#include "ops/conv.h"
#include "parallel/openmp_runtime.h"

#if defined(OCTAVO_TEST_WITH_OPENMP)
#include <omp.h>
#endif

namespace octavo::testing {
namespace {

constexpr int64_t kMuchWork = int64_t{1} << 40;

TEST(ParallelTest, RunsEachTaskOnce) {
  for (const int64_t tasks : {0, 1, 2, 3, 7, 64, 1000}) {
    for (const int64_t cost : {int64_t{0}, kMuchWork}) {
      std::vector<std::atomic<int>> runs(tasks);
      parallel_for(tasks, cost, [&](int64_t i) { runs[i].fetch_add(1); });
      for (int64_t i = 0; i < tasks; ++i)
        EXPECT_EQ(runs[i].load(), 1) << "task " << i << " of " << tasks;
    }
  }
}

std::set<std::thread::id> threads_of(int64_t tasks, int64_t cost) {
  std::vector<std::thread::id> ids(tasks);
  parallel_for(tasks, cost, [&](int64_t i) {
    ids[i] = std::this_thread::get_id();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  });
  return {ids.begin(), ids.end()};
}

TEST(ParallelTest, SmallWorkStaysOnTheCaller) {
  const std::set<std::thread::id> ids = threads_of(8, kSerialGrain);
  EXPECT_EQ(ids, (std::set<std::thread::id>{std::this_thread::get_id()}));
  EXPECT_EQ(threads_of(1, kMuchWork), (std::set<std::thread::id>{std::this_thread::get_id()}));
}

TEST(ParallelTest, RunsSeriallyInAForkedChild) {
  parallel_for(8, kMuchWork,
               [](int64_t) {});  // so that the parent's pool has threads that the child lacks
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);  // a pool whose threads are gone would wait for ever
    std::atomic<int> sum{0};
    parallel_for(8, kMuchWork, [&](int64_t i) { sum += static_cast<int>(i); });
    _exit(sum == 28 && max_threads() == 1 && pool_info().pool == "serial" ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(ParallelTest, ManyCallersAtOnce) {
  // As Python threads do: each opens regions of its own.
  std::vector<std::thread> callers;
  std::atomic<int64_t> total{0};
  for (int t = 0; t < 8; ++t) {
    callers.emplace_back([&] {
      for (int i = 0; i < 50; ++i)
        parallel_for(10, kMuchWork, [&](int64_t task) { total += task; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(total.load(), 8 * 50 * 45);
}

// One quantized layer called from many threads, as a served model is; re-packing and the parameter
// cache included.
TEST(ParallelTest, OneLayerServesManyThreads) {
  Random random(1);
  const int32_t m = 20, n = 70, k = 90;
  const QuantizedBytes x(random, m * k, false);
  const LayerCase layer(random, 1, n, 1, k, LayerCase::Zeros::kSome, true, x.qparams.scale);
  const QuantizedWeight weight(layer.weights.data(), {1, n, 1, k}, layer.params, false);
  std::vector<OutputSpec> outputs;
  std::vector<std::vector<uint8_t>> expected;
  for (int i = 0; i < 3; ++i) {
    outputs.push_back(random_output(random, OutKind::kU8,
                                    layer.output_scale(random, x.qparams.scale) * (1.0f + i)));
    expected.emplace_back(m * n);
    ref::linear(layer.reference(), x.reference(), m, x.affine(), reference_output(outputs[i]), {},
                expected[i].data());
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 8; ++t) {
    callers.emplace_back([&, t] {
      std::vector<uint8_t> out(m * n);
      for (int i = 0; i < 60; ++i) {
        const int which = (i + t) % 3;
        linear(weight, {x.data.data(), m, k, k, false}, x.qparams, outputs[which], out.data(), n);
        wrong += out != expected[which];
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong.load(), 0);
}

// A layer has a packed form for each ISA, which the first call that needs it adds for all threads.
TEST(ParallelTest, ThreadsComputeWhileAnotherForcesIsas) {
  const std::vector<std::string> isas = isas_under_test();
  Random random(3);
  const int32_t m = 12, n = 40, k = 70;
  const QuantizedBytes x(random, m * k, true);
  const LayerCase layer(random, 1, n, 1, k, LayerCase::Zeros::kSome, true, x.qparams.scale);
  const OutputSpec output =
      random_output(random, OutKind::kS8, layer.output_scale(random, x.qparams.scale));
  std::vector<uint8_t> expected(m * n);
  ref::linear(layer.reference(), x.reference(), m, x.affine(), reference_output(output), {},
              expected.data());
  for (int repeat = 0; repeat < 5; ++repeat) {
    const QuantizedWeight weight(layer.weights.data(), {1, n, 1, k}, layer.params, false);
    std::atomic<int> wrong{0}, running{4};
    std::vector<std::thread> callers;
    for (int t = 0; t < 4; ++t) {
      callers.emplace_back([&] {
        std::vector<uint8_t> out(m * n);
        for (int i = 0; i < 50; ++i) {
          linear(weight, {x.data.data(), m, k, k, true}, x.qparams, output, out.data(), n);
          wrong += out != expected;
        }
        running -= 1;
      });
    }
    for (size_t i = 0; running.load() > 0; ++i) const ForcedIsa forced(isas[i % isas.size()]);
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(wrong.load(), 0);
  }
}

#if !defined(OCTAVO_TEST_WITH_OPENMP)

TEST(ParallelTest, IsSerialWithoutAnOpenMpRuntime) {
  EXPECT_EQ(pool_info().pool, "serial");
  EXPECT_EQ(max_threads(), 1);
  EXPECT_EQ(threads_of(4, kMuchWork).size(), 1u);
}

#else

// Sets the number of threads that the next regions have.
class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

TEST(OpenMpTest, BorrowsTheLoadedRuntime) {
  const PoolInfo info = pool_info();
  EXPECT_NE(info.pool, "serial");
  EXPECT_NE(info.library.find("omp"), std::string::npos) << info.library;
  for (const int count : {1, 2, 3, 4}) {
    const Threads threads(count);
    EXPECT_EQ(max_threads(), count);
    const size_t used = threads_of(32, kMuchWork).size();
    EXPECT_LE(used, static_cast<size_t>(count));
    if (count > 1) {
      EXPECT_GT(used, 1u);
    }
  }
}

TEST(OpenMpTest, RunsSeriallyInsideAnotherRegion) {
  const Threads threads(3);
  std::atomic<int> foreign{0};
#pragma omp parallel
  {
    const std::thread::id me = std::this_thread::get_id();
    parallel_for(4, kMuchWork, [&](int64_t) { foreign += std::this_thread::get_id() != me; });
  }
  EXPECT_EQ(foreign.load(), 0);
}

// Entry points of the loaded runtime, but for the one that gcc's code calls.
void* find_all_but_gnu(void*, const char* name) {
  return std::string(name) == "GOMP_parallel" ? nullptr : dlsym(RTLD_DEFAULT, name);
}

// As on Windows, and wherever LLVM's runtime was built without gcc's entry points.
TEST(OpenMpTest, RunsATeamByTheEntryPointOfLlvm) {
  const OpenMpRuntime runtime = openmp_runtime(find_all_but_gnu, nullptr);
  ASSERT_EQ(runtime.gnu_parallel, nullptr);
  if (!runtime.llvm_fork_call) {
    EXPECT_FALSE(runtime.usable());
    GTEST_SKIP() << "the OpenMP runtime of this compiler is not LLVM's";
  }
  ASSERT_TRUE(runtime.usable());
  for (const int count : {1, 2, 3, 4}) {
    const Threads threads(count);
    for (int repeat = 0; repeat < 20; ++repeat) {
      struct Team {
        const OpenMpRuntime& runtime;
        std::atomic<int> members{0}, outside{0};
      } team{runtime};
      runtime.run_team(
          [](void* argument) {
            auto& team = *static_cast<Team*>(argument);
            team.members += 1;
            team.outside += team.runtime.in_parallel() == 0;
            // Until all have come, so that no thread does the work of another.
            while (team.members.load() < team.runtime.max_threads()) std::this_thread::yield();
          },
          &team);
      EXPECT_EQ(team.members.load(), count);
      EXPECT_EQ(team.outside.load(), count > 1 ? 0 : 1);
    }
  }
}

// Results do not depend on the number of threads.
TEST(OpenMpTest, DriversGiveTheSameBitsOnAnyNumberOfThreads) {
  for (const std::string& isa : isas_under_test()) {
    const ForcedIsa forced(isa);
    Random random(2);
    const int32_t m = 150, n = 200, k = 120;
    const QuantizedBytes x(random, m * k, true);
    const LayerCase layer(random, 1, n, 1, k, LayerCase::Zeros::kSome, true, x.qparams.scale);
    const QuantizedWeight weight(layer.weights.data(), {1, n, 1, k}, layer.params, false);
    const OutputSpec output =
        random_output(random, OutKind::kU8, layer.output_scale(random, x.qparams.scale));
    std::vector<uint8_t> expected(m * n);
    ref::linear(layer.reference(), x.reference(), m, x.affine(), reference_output(output), {},
                expected.data());

    const int32_t side = 24, channels = 32;
    const QuantizedBytes pixels(random, 2 * side * side * channels, false);
    const LayerCase filters(random, 1, 40, 9, channels, LayerCase::Zeros::kNone, true,
                            pixels.qparams.scale);
    const ConvGeometry geometry{{1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, {1, 1, 1}};
    const ConvWeight conv_weight(filters.weights.data(), 1, 40, channels, geometry, filters.params);
    const OutputSpec conv_output =
        random_output(random, OutKind::kS8, filters.output_scale(random, 0.02f));
    const ref::Image image{pixels.reference(), 2, {1, side, side}, channels};
    std::vector<uint8_t> conv_expected(2 * side * side * 40);
    ref::conv(filters.reference(), image, {{1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, {1, 1, 1}},
              pixels.affine(), reference_output(conv_output), {}, conv_expected.data());
    const ImageView view{pixels.data.data(),
                         2,
                         {1, side, side},
                         channels,
                         ptrdiff_t{side} * side * channels,
                         {ptrdiff_t{side} * side * channels, ptrdiff_t{side} * channels, channels},
                         false};

    for (const int count : {1, 2, 3, 8}) {
      const Threads threads(count);
      std::vector<uint8_t> out(expected.size()), conv_out(conv_expected.size());
      linear(weight, {x.data.data(), m, k, k, true}, x.qparams, output, out.data(), n);
      EXPECT_EQ(output_difference(OutKind::kU8, out, expected), "")
          << isa << " on " << count << " threads";
      conv(conv_weight, view, pixels.qparams, conv_output, {}, conv_out.data());
      EXPECT_EQ(output_difference(OutKind::kS8, conv_out, conv_expected), "")
          << isa << " on " << count << " threads";
    }
  }
}

#endif

}  // namespace
}  // namespace octavo::testing
