// Tables of instructions in all their forms, made by the assembler: what the assembler encoded, and
// what it was asked for.
#pragma once

#include <cstdint>

namespace octavo::amx_test {

enum class FormKind : uint8_t { kLdTileCfg, kStTileCfg, kTileLoadD, kTileLoadDT1, kTileStoreD };

// An instruction with a memory operand, followed by a jump to the end of octavo_test_run_form.
struct MemoryForm {
  const uint8_t* code;
  FormKind kind;
  int8_t base, index;  // register numbers; -1: none
  uint8_t scale;       // 1, 2, 4 or 8
  uint8_t length;
  uint8_t tile;
  int16_t reserved;
  int32_t displacement;
  int32_t reserved2;
};

// A dot product, followed by a return.
struct DotProductForm {
  void (*code)();
  uint8_t signed1, signed2;
  uint8_t dst, src1, src2;
  uint8_t reserved[3];
};

// The displacement of forms without a base register, where a test maps memory.
constexpr uint64_t kBaselessAddress = 0x20000040;

extern "C" {
__attribute__((visibility("hidden"))) extern const MemoryForm octavo_test_memory_forms[];
__attribute__((visibility("hidden"))) extern const MemoryForm octavo_test_memory_forms_end[];
__attribute__((visibility("hidden"))) extern const DotProductForm octavo_test_dot_forms[];
__attribute__((visibility("hidden"))) extern const DotProductForm octavo_test_dot_forms_end[];

// Loads all sixteen general registers from octavo_test_in, runs the form at octavo_test_code and
// stores the registers to octavo_test_out. One thread only. Below rsp there must be room for a
// signal frame.
__attribute__((visibility("hidden"))) void octavo_test_run_form();
__attribute__((visibility("hidden"))) extern uint64_t octavo_test_in[16];
__attribute__((visibility("hidden"))) extern uint64_t octavo_test_out[16];
__attribute__((visibility("hidden"))) extern const uint8_t* octavo_test_code;
}

}  // namespace octavo::amx_test
