// Speed of every kernel of one ISA: each row of its table by the shapes below. One thread.
//
//   bench_kernels [--benchmark_filter=...]        OCTAVO_ISA=<name> chooses the ISA, as everywhere
//
// Every benchmark first checks its result against the reference; a wrong one is reported as an
// error, not a time. GOP/s counts a multiplication and an addition as two operations; element-wise
// rows report bytes moved.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/features.h"
#include "ops/conv.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ref/reference.h"

namespace octavo {
namespace {

struct GemmShape {
  const char* name;
  int32_t m, n, k;
};
constexpr GemmShape kGemmShapes[] = {
    {"cube_1024", 1024, 1024, 1024},
    {"bert_ffn_128x3072x768", 128, 3072, 768},
    {"bert_qkv_128x768x768", 128, 768, 768},
    {"vector_1x4096x1024", 1, 4096, 1024},
    {"batch_8x1024x1024", 8, 1024, 1024},
    {"tail_61x93x131", 61, 93, 131},
    {"bert_down_128x768x3072", 128, 768, 3072},
    {"vector_1x4096x4096", 1, 4096, 4096},
    {"vector_1x768x768", 1, 768, 768},
    {"batch_16x3072x768", 16, 3072, 768},
    {"batch_2x1024x1024", 2, 1024, 1024},
    {"batch_4x1024x1024", 4, 1024, 1024},
    {"shallow_3136x256x64", 3136, 256, 64},
    {"narrow_12544x32x32", 12544, 32, 32},
    {"expand_12544x96x16", 12544, 96, 16},
    {"project_3136x24x144", 3136, 24, 144},
};

struct ConvShape {
  const char* name;
  int64_t batch, side;
  int32_t groups, n, k, kernel, stride;
  bool adds = false;  // a residual
};
constexpr ConvShape kConvShapes[] = {
    {"resnet_stem_7x7_3_64", 1, 224, 1, 64, 3, 7, 2},
    {"mobilenet_stem_3x3_3_32", 1, 224, 1, 32, 3, 3, 2},
    {"resnet_3x3_64_56", 1, 56, 1, 64, 64, 3, 1},
    {"resnet_3x3_256_14", 1, 14, 1, 256, 256, 3, 1},
    {"resnet_1x1_256_64_56", 1, 56, 1, 64, 256, 1, 1},
    {"resnet_1x1_64_256_56", 1, 56, 1, 256, 64, 1, 1},
    {"resnet_1x1_64_256_56_add", 1, 56, 1, 256, 64, 1, 1, true},
    {"resnet_1x1_128_512_28", 1, 28, 1, 512, 128, 1, 1},
    {"resnet_1x1_1024_256_14", 1, 14, 1, 256, 1024, 1, 1},
    {"resnet_1x1_2048_512_7", 1, 7, 1, 512, 2048, 1, 1},
    {"resnet_1x1_512_2048_7_add", 1, 7, 1, 2048, 512, 1, 1, true},
    {"resnet_3x3_512_7", 1, 7, 1, 512, 512, 3, 1},
    {"resnet_3x3_128_28", 1, 28, 1, 128, 128, 3, 1},
    {"unet_3x3_512_256_32", 1, 32, 1, 256, 512, 3, 1},
    {"unet_3x3_64_32_256", 1, 256, 1, 32, 64, 3, 1},
};
// Layers that window kernels compute; the label says which.
constexpr ConvShape kWindowShapes[] = {
    {"mobilenet_3x3_32_112", 1, 112, 32, 1, 1, 3, 1},
    {"mobilenet_3x3_96_112_s2", 1, 112, 96, 1, 1, 3, 2},
    {"mobilenet_3x3_144_56", 1, 56, 144, 1, 1, 3, 1},
    {"mobilenet_3x3_144_56_s2", 1, 56, 144, 1, 1, 3, 2},
    {"mobilenet_3x3_576_14", 1, 14, 576, 1, 1, 3, 1},
    {"mobilenet_3x3_960_7", 1, 7, 960, 1, 1, 3, 1},
    {"efficientnet_5x5_240_28", 1, 28, 240, 1, 1, 5, 1},
    {"efficientnet_5x5_672_14_s2", 1, 14, 672, 1, 1, 5, 2},
    {"convnext_7x7_192_28", 1, 28, 192, 1, 1, 7, 1},
    {"multiplier_3x3_64x2_56", 1, 56, 64, 2, 1, 3, 1},
    {"resnext_3x3_32x4_56", 1, 56, 32, 4, 4, 3, 1},
    {"resnext_3x3_32x8_28", 1, 28, 32, 8, 8, 3, 1},
    {"resnext_3x3_32x16_14", 1, 14, 32, 16, 16, 3, 1},
    {"groups_3x3_20x5_28_s2", 1, 28, 20, 5, 5, 3, 2},
    {"groups_3x3_16x16_28", 1, 28, 16, 16, 16, 3, 1},
    {"groups_5x5_32x4_28", 1, 28, 32, 4, 4, 5, 1},
};

template <typename T>
std::vector<T> random_bytes(size_t size) {
  std::mt19937 engine(static_cast<uint32_t>(size));
  std::vector<T> data(size);
  for (T& v : data) v = static_cast<T>(engine());
  return data;
}

WeightParams weight_params(int32_t channels) {
  WeightParams params;
  params.scale.assign(channels, 0.01f);
  params.zero_point.assign(channels, 0);
  params.bias.assign(channels, 0.5f);
  return params;
}

constexpr QParams kInput{0.02f, 121};

OutputSpec output_for(int32_t depth) {
  return {OutKind::kU8, {0.02f * 0.01f * 40.0f * std::sqrt(static_cast<float>(depth)), 119}, true};
}

ref::Output reference_output(const OutputSpec& o) {
  return {o.kind, {o.out.scale, o.out.zero_point}, o.relu};
}

// Multiply-adds a second of the ISA's arithmetic on registers, the best of several runs.
double measure_peak(const KernelSet& set) {
  using Clock = std::chrono::steady_clock;
  if (set.task_begin) set.task_begin();
  double best = 0.0;
  for (int run = 0; run < 5; ++run) {
    const auto start = Clock::now();
    const int64_t multiply_adds = set.peak(int64_t{1} << 20);
    const std::chrono::duration<double> seconds = Clock::now() - start;
    best = std::max(best, static_cast<double>(multiply_adds) / seconds.count());
  }
  if (set.task_end) set.task_end();
  return best;
}

void report_ops(benchmark::State& state, double multiply_adds) {
  static const double peak = measure_peak(cpu::kernels());
  state.counters["peak"] =
      benchmark::Counter(multiply_adds / peak, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["GOP/s"] =
      benchmark::Counter(2e-9 * multiply_adds, benchmark::Counter::kIsIterationInvariantRate);
}

bool check(benchmark::State& state, const std::vector<uint8_t>& got,
           const std::vector<uint8_t>& expected) {
  if (got == expected) return true;
  state.SkipWithError("the result differs from the reference");
  return false;
}

// Reference results are slow to compute, so a few rows of a large product are checked, first and
// last among them.
void bench_gemm(benchmark::State& state, const char* kernel, const GemmShape& s) {
  cpu::force_gemm_kernel(kernel);
  const auto w = random_bytes<int8_t>(size_t(s.n) * s.k);
  const auto x = random_bytes<uint8_t>(size_t(s.m) * s.k);
  const QuantizedWeight weight(w.data(), {1, s.n, 1, s.k}, weight_params(s.n), false);
  const OutputSpec output = output_for(s.k);
  std::vector<uint8_t> out(size_t(s.m) * s.n);
  const auto run = [&] {
    linear(weight, {x.data(), s.m, s.k, s.k, false}, kInput, output, out.data(), s.n);
  };
  run();
  const WeightParams& p = weight.params();
  const ref::Layer layer{w.data(),     1, s.n, 1, s.k, p.scale.data(), p.zero_point.data(),
                         p.bias.data()};
  for (int32_t row : {0, s.m / 2, s.m - 1}) {
    std::vector<uint8_t> expected(s.n);
    ref::linear(layer, {x.data() + size_t(row) * s.k, false}, 1, {kInput.scale, kInput.zero_point},
                reference_output(output), {}, expected.data());
    const auto first = out.begin() + static_cast<ptrdiff_t>(row) * s.n;
    if (!check(state, {first, first + s.n}, expected)) return;
  }
  for (auto _ : state) {
    run();
    benchmark::ClobberMemory();
  }
  report_ops(state, double(s.m) * s.n * s.k);
  state.SetLabel(cpu::last_kernel());
  cpu::force_gemm_kernel(nullptr);
}

void bench_conv(benchmark::State& state, const char* kernel, const ConvShape& s) {
  cpu::force_gemm_kernel(kernel);
  const int32_t pad = s.kernel / 2, taps = s.kernel * s.kernel, channels = s.groups * s.k,
                outputs = s.groups * s.n;
  const ConvGeometry g{
      {1, s.kernel, s.kernel}, {1, s.stride, s.stride}, {0, pad, pad}, {0, pad, pad}, {1, 1, 1}};
  const auto w = random_bytes<int8_t>(size_t(outputs) * taps * s.k);
  const auto x = random_bytes<uint8_t>(size_t(s.batch * s.side * s.side) * channels);
  const ConvWeight weight(w.data(), s.groups, s.n, s.k, g, weight_params(outputs));
  const int64_t side = g.output_size(1, s.side);
  const OutputSpec output = output_for(taps * s.k);
  std::vector<uint8_t> out(s.batch * side * side * outputs);
  const ptrdiff_t row = s.side * channels;
  const ImageView view{x.data(), s.batch,      {1, s.side, s.side},
                       channels, s.side * row, {s.side * row, row, channels},
                       false};
  const QParams added{0.031f * output.out.scale / 0.02f, 100};
  const auto sum = random_bytes<uint8_t>(s.adds ? out.size() : 0);
  const Residual residual{s.adds ? sum.data() : nullptr, outputs, added, false};
  const auto run = [&] { conv(weight, view, kInput, output, residual, out.data()); };
  run();
  const WeightParams& p = weight.weight().params();
  const ref::Layer layer{
      w.data(), s.groups, s.n, taps, s.k, p.scale.data(), p.zero_point.data(), p.bias.data()};
  std::vector<uint8_t> expected(out.size());
  ref::conv(layer, {{x.data(), false}, s.batch, {1, s.side, s.side}, channels},
            {g.kernel, g.stride, g.padding, g.padding_end, g.dilation},
            {kInput.scale, kInput.zero_point}, reference_output(output),
            {{residual.data, false}, {added.scale, added.zero_point}}, expected.data());
  if (!check(state, out, expected)) return;
  for (auto _ : state) {
    run();
    benchmark::ClobberMemory();
  }
  report_ops(state, double(s.batch * side * side) * outputs * taps * s.k);
  state.SetLabel(cpu::last_kernel());
  cpu::force_gemm_kernel(nullptr);
}

constexpr int64_t kElements = 1 << 20;

void bench_quantize(benchmark::State& state) {
  std::vector<float> x(kElements);
  for (int64_t i = 0; i < kElements; ++i) x[i] = static_cast<float>(i % 1021) * 0.007f - 2.0f;
  std::vector<uint8_t> q(kElements), expected(kElements);
  const auto run = [&] { quantize(x.data(), kElements, kInput, {0, 255}, Storage::kU8, q.data()); };
  run();
  for (int64_t i = 0; i < kElements; ++i) {
    expected[i] =
        static_cast<uint8_t>(ref::quantize(x[i], {kInput.scale, kInput.zero_point}, 0, 255));
  }
  if (!check(state, q, expected)) return;
  for (auto _ : state) {
    run();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * kElements * 5);
}

void bench_dequantize(benchmark::State& state) {
  const auto q = random_bytes<uint8_t>(kElements);
  std::vector<float> x(kElements);
  for (auto _ : state) {
    dequantize(q.data(), kElements, kInput, Storage::kU8, x.data());
    benchmark::ClobberMemory();
  }
  for (int64_t i = 0; i < kElements; ++i) {
    if (x[i] != ref::dequantize(q[i], {kInput.scale, kInput.zero_point}))
      state.SkipWithError("wrong result");
  }
  state.SetBytesProcessed(state.iterations() * kElements * 5);
}

void bench_add(benchmark::State& state) {
  const auto a = random_bytes<uint8_t>(kElements), b = random_bytes<uint8_t>(kElements);
  std::vector<uint8_t> out(kElements), expected(kElements);
  const QParams other{0.031f, 100}, output{0.04f, 90};
  const auto run = [&] {
    add(a.data(), kInput, b.data(), other, kElements, false, output, true, out.data());
  };
  run();
  for (int64_t i = 0; i < kElements; ++i) {
    expected[i] = static_cast<uint8_t>(
        ref::add(a[i], {kInput.scale, kInput.zero_point}, b[i], {other.scale, other.zero_point},
                 {output.scale, output.zero_point}, output.zero_point, 255));
  }
  if (!check(state, out, expected)) return;
  for (auto _ : state) {
    run();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * kElements * 3);
}

// Scores with a spread as those of networks: the weights of 12 heads of 128 queries.
constexpr int64_t kAttentionRows = 12 * 128;

void bench_attention_weights(benchmark::State& state) {
  const int64_t keys = state.range(0);
  const float factor = 5e-5f;
  std::mt19937 engine(static_cast<uint32_t>(keys));
  std::normal_distribution<float> spread(0.0f, 2.2f / factor);
  std::vector<int32_t> scores(kAttentionRows * keys), sums(kAttentionRows);
  for (int32_t& score : scores) score = static_cast<int32_t>(spread(engine));
  std::vector<uint8_t> high(scores.size()), low(scores.size()), expected(2 * keys);
  const auto run = [&] {
    for (int64_t r = 0; r < kAttentionRows; ++r) {
      const int64_t at = r * keys;
      sums[r] = cpu::kernels().elementwise.attention_weights(&scores[at], keys, factor, &high[at],
                                                             &low[at]);
    }
  };
  run();
  for (int64_t r : {int64_t{0}, kAttentionRows - 1}) {
    const int64_t at = r * keys;
    const int32_t sum =
        ref::attention_weights(&scores[at], keys, factor, expected.data(), expected.data() + keys);
    std::vector<uint8_t> got(&high[at], &high[at] + keys);
    got.insert(got.end(), &low[at], &low[at] + keys);
    if (sums[r] != sum) state.SkipWithError("the sum differs from the reference");
    if (!check(state, got, expected)) return;
  }
  for (auto _ : state) {
    run();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * kAttentionRows * keys * 6);
}

void bench_attention_output(benchmark::State& state) {
  const int64_t size = state.range(0);
  std::mt19937 engine(static_cast<uint32_t>(size));
  std::vector<int32_t> high(kAttentionRows * size), low(high.size());
  for (int32_t& sum : high) sum = static_cast<int32_t>(engine() % 40000) - 20000;
  for (int32_t& sum : low) sum = static_cast<int32_t>(engine() % 2000000) - 1000000;
  std::vector<uint8_t> out(high.size()), expected(high.size());
  const auto all_rows = [&](auto&& kernel, uint8_t* to) {
    for (int64_t at = 0; at < kAttentionRows * size; at += size) {
      const AttentionOutputArgs args{&high[at], &low[at], size, 3e-5f, 0.25f, 121, 0, to + at};
      kernel(args);
    }
  };
  const auto run = [&] {
    all_rows([](const AttentionOutputArgs& a) { cpu::kernels().elementwise.attention_output(&a); },
             out.data());
  };
  run();
  all_rows(ref::attention_output, expected.data());
  if (!check(state, out, expected)) return;
  for (auto _ : state) {
    run();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * kAttentionRows * size * 9);
}

void register_all(const KernelSet& set) {
  for (int32_t i = 0; i < set.gemm_count; ++i) {
    const char* kernel = set.gemm[i].name;
    if (set.gemm[i].flags & kTestOnly) continue;
    for (const GemmShape& shape : kGemmShapes) {
      const std::string name = std::string(kernel) + "/" + shape.name;
      benchmark::RegisterBenchmark(name.c_str(), bench_gemm, kernel, shape)
          ->Unit(benchmark::kMicrosecond);
    }
    for (const ConvShape& shape : kConvShapes) {
      const std::string name = std::string(kernel) + "/" + shape.name;
      benchmark::RegisterBenchmark(name.c_str(), bench_conv, kernel, shape)
          ->Unit(benchmark::kMicrosecond);
    }
  }
  // The choice that users get, beside the rows it chooses from.
  for (const GemmShape& shape : kGemmShapes) {
    const std::string name = std::string("chosen/") + shape.name;
    benchmark::RegisterBenchmark(name.c_str(), bench_gemm, nullptr, shape)
        ->Unit(benchmark::kMicrosecond);
  }
  for (const ConvShape& shape : kWindowShapes) {
    const std::string name = std::string("window__") + set.isa + "/" + shape.name;
    benchmark::RegisterBenchmark(name.c_str(), bench_conv, nullptr, shape)
        ->Unit(benchmark::kMicrosecond);
  }
  const std::string isa = std::string("__") + set.isa;
  benchmark::RegisterBenchmark(("quantize" + isa).c_str(), bench_quantize)
      ->Unit(benchmark::kMicrosecond);
  benchmark::RegisterBenchmark(("dequantize" + isa).c_str(), bench_dequantize)
      ->Unit(benchmark::kMicrosecond);
  benchmark::RegisterBenchmark(("add" + isa).c_str(), bench_add)->Unit(benchmark::kMicrosecond);
  benchmark::RegisterBenchmark(("attention_weights" + isa).c_str(), bench_attention_weights)
      ->Arg(128)
      ->Arg(197)
      ->Arg(512)
      ->Unit(benchmark::kMicrosecond);
  benchmark::RegisterBenchmark(("attention_output" + isa).c_str(), bench_attention_output)
      ->Arg(32)
      ->Arg(64)
      ->Unit(benchmark::kMicrosecond);
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  try {
    const octavo::KernelSet& set = octavo::cpu::kernels();
    if (octavo::cpu::emulated_features() != 0) {
      std::fprintf(stderr, "bench_kernels: an emulator is loaded; its times would mean nothing\n");
      return 1;
    }
    benchmark::AddCustomContext("isa", set.isa);
    octavo::register_all(set);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_kernels: %s\n", error.what());
    return 1;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
