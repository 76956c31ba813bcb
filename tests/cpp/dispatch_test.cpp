// Which ISA runs: detection, OCTAVO_ISA in a fresh process, forcing, and the kernel that a call
// reports.
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>

#include "cpu/features.h"
#include "ops/conv.h"
#include "support.h"

namespace octavo::testing {
namespace {

template <typename Error, typename Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected an exception";
  return "";
}

TEST(DispatchTest, DefaultIsTheBestRunnableIsa) {
  cpu::force_isa(nullptr);
  if (const char* wanted = std::getenv("OCTAVO_ISA"); wanted && *wanted) {
    EXPECT_STREQ(cpu::kernels().isa, wanted);
    return;
  }
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    if (!isa.runnable) continue;
    EXPECT_STREQ(cpu::kernels().isa, isa.name);
    break;
  }
}

TEST(DispatchTest, ForcesEveryRunnableIsa) {
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    if (!isa.runnable) continue;
    cpu::force_isa(isa.name);
    EXPECT_EQ(&cpu::kernels(), isa.table);
  }
  cpu::force_isa(nullptr);
}

TEST(DispatchTest, RefusesUnknownIsas) {
  const char* before = cpu::kernels().isa;
  for (const char* name : {"", "avx9000", "AVX2", "scalar "}) {
    const std::string message = message_of<std::invalid_argument>([&] { cpu::force_isa(name); });
    EXPECT_NE(message.find("unknown ISA"), std::string::npos) << message;
    EXPECT_NE(message.find("scalar"), std::string::npos) << "names what there is: " << message;
  }
  EXPECT_STREQ(cpu::kernels().isa, before);
}

TEST(DispatchTest, RefusesIsasThatThisCpuLacks) {
  int lacking = 0;
  const char* before = cpu::kernels().isa;
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    if (isa.runnable) continue;
    ++lacking;
    const std::string message = message_of<std::runtime_error>([&] { cpu::force_isa(isa.name); });
    EXPECT_NE(message.find(missing_features(isa)), std::string::npos)
        << "names the missing features: " << message;
    EXPECT_NE(message.find("scalar"), std::string::npos) << "names what can run: " << message;
  }
  EXPECT_STREQ(cpu::kernels().isa, before);
  std::printf("%d of the built ISAs cannot run here\n", lacking);
}

TEST(DispatchTest, RefusesKernelsOfOtherIsas) {
  cpu::force_isa("scalar");
  EXPECT_THROW(cpu::force_gemm_kernel("u8s8_gemm_1x1c1__none"), std::invalid_argument);
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    if (std::string(isa.name) == "scalar") continue;
    EXPECT_THROW(cpu::force_gemm_kernel(isa.table->gemm[0].name), std::invalid_argument);
  }
  cpu::force_isa(nullptr);
}

// Drivers say which kernel they ran, and it belongs to the ISA that was forced.
TEST(DispatchTest, OnlyAvxWithoutVnniHasLineKernels) {
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    const std::string name = isa.name;
    EXPECT_EQ(isa.table->lines != nullptr, name == "avx2" || name == "avx512") << name;
  }
}

TEST(DispatchTest, LastKernelIsTheForcedIsas) {
  const std::vector<int8_t> w(9 * 16, 1);
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    if (!isa.runnable) continue;
    cpu::force_isa(isa.name);
    const std::string suffix = std::string("__") + isa.name;
    const std::vector<uint8_t> x(64, 1);
    std::vector<uint8_t> out(64);
    const QuantizedWeight linear_weight(w.data(), {1, 4, 1, 4}, {{1, 1, 1, 1}, {0, 0, 0, 0}, {}},
                                        false);
    cpu::set_last_kernel("none");
    linear(linear_weight, {x.data(), 2, 4, 4, false}, {1.0f, 0}, {OutKind::kU8, {1.0f, 0}, false},
           out.data(), 4);
    EXPECT_TRUE(std::string(cpu::last_kernel()).starts_with("u8s8_gemm_"));
    EXPECT_TRUE(std::string(cpu::last_kernel()).ends_with(suffix)) << cpu::last_kernel();

    const ConvWeight depthwise(w.data(), 16, 1, 1, {{1, 3, 3}},
                               {std::vector<float>(16, 1.0f), std::vector<int32_t>(16), {}});
    const std::vector<uint8_t> image(16 * 9);
    conv(depthwise, {image.data(), 1, {1, 3, 3}, 16, 144, {144, 48, 16}, false}, {1.0f, 0},
         {OutKind::kU8, {1.0f, 0}, false}, {}, out.data());
    EXPECT_TRUE(std::string(cpu::last_kernel()).starts_with("u8s8_depthwise_"));
    EXPECT_TRUE(std::string(cpu::last_kernel()).ends_with(suffix)) << cpu::last_kernel();
  }
  cpu::force_isa(nullptr);
}

struct Report {
  std::string text;
  int code;
};

// What a fresh process of this binary chooses with OCTAVO_ISA set so. OCTAVO_TEST_LAUNCHER is the
// emulator that runs the binary, where one does.
Report fresh_process(const std::string& isa) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const char* launcher = std::getenv("OCTAVO_TEST_LAUNCHER");
  const std::string command = "OCTAVO_ISA='" + isa + "' " + (launcher ? launcher : "") + " '" +
                              self + "' --report-active-isa";
  Report report;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return {"popen failed", -1};
  std::array<char, 256> buffer;
  while (fgets(buffer.data(), buffer.size(), pipe)) report.text += buffer.data();
  report.code = WEXITSTATUS(pclose(pipe));
  return report;
}

TEST(DispatchTest, EnvironmentVariableIsHonoured) {
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    const Report report = fresh_process(isa.name);
    if (isa.runnable) {
      EXPECT_EQ(report.code, 0) << report.text;
      EXPECT_TRUE(report.text.starts_with(std::string("isa=") + isa.name + " ")) << report.text;
      EXPECT_NE(report.text.find(std::string("__") + isa.name + " "), std::string::npos)
          << report.text;
    } else {
      EXPECT_EQ(report.code, 1);
      EXPECT_NE(report.text.find("OCTAVO_ISA"), std::string::npos) << report.text;
      EXPECT_NE(report.text.find(missing_features(isa)), std::string::npos) << report.text;
    }
  }
  const Report unknown = fresh_process("avx9000");
  EXPECT_EQ(unknown.code, 1);
  EXPECT_NE(unknown.text.find("avx9000"), std::string::npos) << unknown.text;
  const Report unset = fresh_process("");
  EXPECT_EQ(unset.code, 0) << unset.text;
}

TEST(FeatureTest, DependenciesHold) {
  using cpu::bit;
  using cpu::Feature;
  const uint64_t have = cpu::features();
  const auto implies = [have](Feature a, Feature b) { return !(have & bit(a)) || (have & bit(b)); };
  EXPECT_TRUE(implies(Feature::avx512_vnni, Feature::avx512));
  EXPECT_TRUE(implies(Feature::avx512_vbmi, Feature::avx512));
  EXPECT_TRUE(implies(Feature::avx512, Feature::avx2));
  EXPECT_TRUE(implies(Feature::amx_int8, Feature::amx_tile));
  EXPECT_TRUE(implies(Feature::i8mm, Feature::neon));
  EXPECT_EQ(cpu::emulated_features() & ~have, 0u);
  for (int i = 0; i < static_cast<int>(Feature::count); ++i) {
    const cpu::FeatureInfo& info = cpu::feature_info(static_cast<Feature>(i));
    EXPECT_GT(std::string(info.name).size(), 0u);
    EXPECT_GT(std::string(info.description).size(), 0u);
  }
}

}  // namespace
}  // namespace octavo::testing
