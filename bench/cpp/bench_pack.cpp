// Speed of packing and unpacking in every format of this build, test-only ones included, whatever
// this CPU can run; and of making a QuantizedWeight in the active one. One thread: no OpenMP
// runtime is loaded.
#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "ops/quantized_weight.h"
#include "pack/packed_weight.h"

namespace octavo {
namespace {

constexpr WeightShape kShapes[] = {
    {1, 4096, 1, 4096}, {1, 4093, 1, 4091}, {1, 512, 9, 512}, {32, 4, 9, 4}};

std::vector<int8_t> random_weights(const WeightShape& shape) {
  std::mt19937 engine(1);
  std::vector<int8_t> w(shape.elements());
  for (int8_t& v : w) v = static_cast<int8_t>(engine());
  return w;
}

void bench_pack(benchmark::State& state, const WeightShape& shape, PackFormat format) {
  const std::vector<int8_t> w = random_weights(shape);
  std::vector<int32_t> sums(size_t(shape.groups) * shape.n);
  std::vector<int8_t> back(w.size());
  PackedWeight::pack(w.data(), shape, format)->unpack(back.data());
  if (back != w) return state.SkipWithError("unpacking did not give the weights back");
  for (auto _ : state)
    benchmark::DoNotOptimize(PackedWeight::pack(w.data(), shape, format, sums.data()));
  state.SetBytesProcessed(state.iterations() * shape.elements());
}

void bench_unpack(benchmark::State& state, const WeightShape& shape, PackFormat format) {
  const std::vector<int8_t> w = random_weights(shape);
  std::vector<int8_t> back(w.size());
  const auto packed = PackedWeight::pack(w.data(), shape, format);
  for (auto _ : state) {
    packed->unpack(back.data());
    benchmark::ClobberMemory();
  }
  if (back != w) state.SkipWithError("unpacking did not give the weights back");
  state.SetBytesProcessed(state.iterations() * shape.elements());
}

void bench_weight(benchmark::State& state, const WeightShape& shape) {
  const std::vector<int8_t> w = random_weights(shape);
  const int32_t channels = shape.groups * shape.n;
  const WeightParams params{
      std::vector<float>(channels, 0.01f), std::vector<int32_t>(channels, 0), {}};
  for (auto _ : state) {
    const QuantizedWeight weight(w.data(), shape, params, false);
    benchmark::DoNotOptimize(weight.packed_bytes());
  }
  state.SetBytesProcessed(state.iterations() * shape.elements());
}

void register_all() {
  std::vector<PackFormat> formats;
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    for (int32_t i = 0; i < isa.table->gemm_count; ++i) {
      bool known = false;
      for (const PackFormat& f : formats) known |= cpu::same_format(f, isa.table->gemm[i].format);
      if (!known) formats.push_back(isa.table->gemm[i].format);
    }
  }
  for (const WeightShape& s : kShapes) {
    const std::string shape = std::to_string(s.groups) + "x" + std::to_string(s.n) + "x" +
                              std::to_string(s.taps) + "x" + std::to_string(s.k);
    for (const PackFormat& f : formats) {
      const std::string name = "/nr" + std::to_string(f.nr) + "_kr" + std::to_string(f.kr) +
                               "_tail" + std::to_string(f.nr_tail) + "/" + shape;
      benchmark::RegisterBenchmark(("pack" + name).c_str(), bench_pack, s, f)
          ->Unit(benchmark::kMillisecond);
      benchmark::RegisterBenchmark(("unpack" + name).c_str(), bench_unpack, s, f)
          ->Unit(benchmark::kMillisecond);
    }
    benchmark::RegisterBenchmark(("quantized_weight/" + shape).c_str(), bench_weight, s)
        ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  octavo::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
