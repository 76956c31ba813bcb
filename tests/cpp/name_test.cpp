// Kernel tables of every built ISA, runnable or not: names say what the rows are, and folders match
// the registry.
#include <cstdio>
#include <filesystem>
#include <set>
#include <sstream>

#include "cpu/features.h"
#include "support.h"

namespace octavo::testing {
namespace {

bool same_offset(const int32_t (&a)[2], const int32_t (&b)[2]) {
  return a[0] == b[0] && a[1] == b[1];
}

TEST(NameTest, GemmNamesParseToTheirRows) {
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    ASSERT_GT(isa.table->gemm_count, 0) << isa.name;
    for (int32_t i = 0; i < isa.table->gemm_count; ++i) {
      const GemmKernel& kernel = isa.table->gemm[i];
      int mr = 0, nr = 0, kr = 0;
      char name[64] = "";
      const int read = std::sscanf(kernel.name, "u8s8_gemm_%dx%dc%d__%63s", &mr, &nr, &kr, name);
      EXPECT_EQ(read, 4) << kernel.name;
      EXPECT_EQ(mr, kernel.mr) << kernel.name;
      EXPECT_EQ(nr, kernel.nr) << kernel.name;
      EXPECT_EQ(kr, kernel.format.kr) << kernel.name;
      EXPECT_STREQ(name, isa.name) << kernel.name;
    }
  }
}

TEST(NameTest, WindowNamesParseToTheirRows) {
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    for (int32_t i = 0; i < isa.table->window_count; ++i) {
      const WindowKernel& kernel = isa.table->window[i];
      char kind[64] = "", window[64] = "", name[64] = "";
      int channels = 0;
      const int read = std::sscanf(kernel.name, "u8s8_%63[a-z]_%63[a-z0-9]_x%d__%63s", kind, window,
                                   &channels, name);
      EXPECT_EQ(read, 4) << kernel.name;
      EXPECT_STREQ(kind, kernel.kind == WindowKind::kDepthwise ? "depthwise" : "grouped");
      const std::string side = std::to_string(kernel.kernel);
      EXPECT_EQ(window, kernel.kernel ? side + "x" + side + "s" + std::to_string(kernel.stride)
                                      : std::string("any"));
      EXPECT_GE(channels, 1) << kernel.name;
      EXPECT_STREQ(name, isa.name) << kernel.name;
    }
  }
}

TEST(NameTest, LineNamesParseToTheirRows) {
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    const LineKernel* kernel = isa.table->lines;
    if (!kernel) continue;
    int nr = 0;
    char name[64] = "";
    EXPECT_EQ(std::sscanf(kernel->name, "u8s8_lines_x%d__%63s", &nr, name), 2) << kernel->name;
    EXPECT_EQ(nr, kernel->nr) << kernel->name;
    EXPECT_STREQ(name, isa.name) << kernel->name;
    EXPECT_TRUE(kernel->fn && kernel->widen[0] && kernel->widen[1]) << kernel->name;
    // Drivers pack weights and prepare acc_init before they know which kernel it will be.
    EXPECT_TRUE(cpu::same_format(kernel->format, isa.table->gemm[0].format)) << kernel->name;
    EXPECT_EQ(kernel->format.nr % kernel->nr, 0) << kernel->name;
    EXPECT_TRUE(same_offset(kernel->a_offset, isa.table->gemm[0].a_offset)) << kernel->name;
  }
}

TEST(NameTest, NamesAreUnique) {
  std::set<std::string> names;
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    EXPECT_STREQ(isa.table->isa, isa.name);
    EXPECT_TRUE(names.insert(isa.name).second) << isa.name;
    for (int32_t i = 0; i < isa.table->window_count; ++i) {
      EXPECT_TRUE(names.insert(isa.table->window[i].name).second) << isa.table->window[i].name;
    }
    if (isa.table->lines) {
      EXPECT_TRUE(names.insert(isa.table->lines->name).second) << isa.table->lines->name;
    }
    for (int32_t i = 0; i < isa.table->gemm_count; ++i) {
      EXPECT_TRUE(names.insert(isa.table->gemm[i].name).second) << isa.table->gemm[i].name;
    }
  }
}

TEST(TableTest, EveryEntryPointExists) {
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    const KernelSet& set = *isa.table;
    for (int s = 0; s < 2; ++s) {
      for (int32_t i = 0; i < set.gemm_count; ++i) {
        const GemmKernel& kernel = set.gemm[i];
        EXPECT_NE(kernel.fn[s], nullptr) << kernel.name;
        EXPECT_EQ(kernel.prepare[s] == nullptr, kernel.prepared_bytes_per_group == 0)
            << kernel.name;
        EXPECT_GE(kernel.mr, kernel.m_step) << kernel.name;
        EXPECT_GE(kernel.m_step, 1) << kernel.name;
        EXPECT_GE(kernel.min_m, 1) << kernel.name;
        EXPECT_TRUE(same_offset(kernel.a_offset, set.gemm[0].a_offset))
            << kernel.name << ": one call mixes an ISA's kernels and has one acc_init";
      }
      for (int32_t i = 0; i < set.window_count; ++i)
        EXPECT_NE(set.window[i].fn[s], nullptr) << set.window[i].name;
      const ElementwiseFns& e = set.elementwise;
      EXPECT_TRUE(e.quantize[s] && e.dequantize[s] && e.add[s] && e.mul[s] && e.clamp[s] &&
                  e.max_pool[s] && e.avg_pool[s] && e.interpolate[s] && e.requantize[s][0] &&
                  e.requantize[s][1])
          << isa.name;
    }
    EXPECT_NE(set.peak, nullptr) << isa.name;
    EXPECT_NE(set.read, nullptr) << isa.name;
    EXPECT_EQ(set.task_begin == nullptr, set.task_end == nullptr)
        << isa.name << ": task hooks come in pairs";
  }
}

TEST(TableTest, RowsAreConsistent) {
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    for (int32_t i = 0; i < isa.table->gemm_count; ++i) {
      const GemmKernel& k = isa.table->gemm[i];
      EXPECT_GE(k.mr, 1) << k.name;
      EXPECT_GE(k.nr, 1) << k.name;
      EXPECT_LE(k.nr, k.format.nr) << k.name;
      EXPECT_EQ(k.format.nr % k.nr, 0) << k.name << ": a panel must be whole tiles";
      EXPECT_GE(k.format.nr_tail, 1) << k.name;
      EXPECT_EQ(k.format.nr % k.format.nr_tail, 0) << k.name;
      EXPECT_TRUE(k.a_offset[false] == 0 || k.a_offset[false] == -128) << k.name;
      EXPECT_TRUE(k.a_offset[true] == 0 || k.a_offset[true] == 128) << k.name;
      // A driver prepares acc_init once for all kernels that may serve a call.
      for (int32_t j = 0; j < isa.table->gemm_count; ++j) {
        const GemmKernel& other = isa.table->gemm[j];
        if (cpu::same_format(k.format, other.format)) {
          EXPECT_TRUE(same_offset(k.a_offset, other.a_offset)) << k.name << " and " << other.name;
        }
      }
    }
    EXPECT_EQ(isa.table->gemm[0].flags & kTestOnly, 0u)
        << isa.name << ": weights are packed for the first row";
  }
}

// A driver prepares acc_init before it chooses a row, and the last row of each kind takes what no
// other admits.
TEST(TableTest, WindowRowsAreConsistent) {
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    bool any[2] = {false, false};
    for (int32_t i = 0; i < isa.table->window_count; ++i) {
      const WindowKernel& kernel = isa.table->window[i];
      EXPECT_TRUE(same_offset(kernel.a_offset, isa.table->window[0].a_offset)) << kernel.name;
      EXPECT_EQ(kernel.kernel == 0, kernel.stride == 0) << kernel.name;
      bool& ended = any[static_cast<int>(kernel.kind)];
      EXPECT_FALSE(ended) << kernel.name << " is never chosen";
      ended = kernel.kernel == 0;
    }
    EXPECT_TRUE(any[0]) << isa.name;
    EXPECT_TRUE(any[1]) << isa.name;
  }
}

TEST(TableTest, EveryIsaFolderForThisMachineIsBuilt) {
  std::set<std::string> built;
  for (const cpu::IsaInfo& isa : cpu::isas()) built.insert(isa.name);
  EXPECT_TRUE(built.count("scalar"));
  std::istringstream chosen(OCTAVO_CHOSEN_ISAS);  // none named: all
  std::set<std::string> wanted;
  for (std::string name; std::getline(chosen, name, ',');) wanted.insert(name);
#if defined(__x86_64__)
  for (const auto& entry : std::filesystem::directory_iterator(OCTAVO_ISA_SOURCE_DIR)) {
    if (!std::filesystem::exists(entry.path() / "isa.cmake")) continue;
    const std::string name = entry.path().filename();
    if (name.starts_with("neon") || !(wanted.empty() || wanted.count(name))) continue;
    EXPECT_TRUE(built.count(name)) << "csrc/isa/" << name << " was left out of this build";
  }
#endif
}

TEST(TableTest, BestIsaComesFirstAndScalarLast) {
  const auto& isas = cpu::isas();
  EXPECT_STREQ(isas.back().name, "scalar");
  EXPECT_TRUE(isas.back().runnable);
  for (const cpu::IsaInfo& isa : isas) EXPECT_EQ(isa.runnable, isa.missing == 0) << isa.name;
}

// The kernel for a problem reads its format, and is one that ordinary selection may take.
TEST(TableTest, SelectionAlwaysFindsAKernel) {
  for (const cpu::IsaInfo& isa : cpu::isas()) {
    const PackFormat format = cpu::active_format(*isa.table);
    for (int64_t m : {1, 2, 5, 16, 33, 1000, 100000}) {
      for (int32_t n = 1; n <= format.nr; ++n) {
        const GemmKernel* kernel = cpu::select_gemm(*isa.table, format, m, n);
        ASSERT_NE(kernel, nullptr) << isa.name << " m=" << m << " n=" << n;
        EXPECT_TRUE(cpu::same_format(kernel->format, format)) << kernel->name;
        EXPECT_EQ(kernel->flags & kTestOnly, 0u) << kernel->name;
      }
    }
    EXPECT_EQ(cpu::select_gemm(*isa.table, {3, 1, 3}, 4, 4), nullptr) << isa.name;
  }
}

}  // namespace
}  // namespace octavo::testing
