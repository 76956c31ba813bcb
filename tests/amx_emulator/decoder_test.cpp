#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <vector>

#include "instruction.h"
#include "test_forms.h"

namespace octavo::amx_test {
namespace {

using amx::Decode;
using amx::Instruction;
using amx::kInstructionPointer;
using amx::kNoRegister;
using amx::Opcode;

Opcode OpcodeOf(FormKind kind) {
  switch (kind) {
    case FormKind::kLdTileCfg:
      return Opcode::kLdTileCfg;
    case FormKind::kStTileCfg:
      return Opcode::kStTileCfg;
    case FormKind::kTileLoadD:
      return Opcode::kTileLoadD;
    case FormKind::kTileLoadDT1:
      return Opcode::kTileLoadDT1;
    default:
      return Opcode::kTileStoreD;
  }
}

TEST(Decoder, EveryMemoryForm) {
  ASSERT_GT(octavo_test_memory_forms_end - octavo_test_memory_forms, 6000);
  for (const MemoryForm* form = octavo_test_memory_forms; form < octavo_test_memory_forms_end;
       ++form) {
    SCOPED_TRACE(form - octavo_test_memory_forms);
    Instruction instruction;
    ASSERT_TRUE(Decode(form->code, &instruction));
    EXPECT_EQ(instruction.opcode, OpcodeOf(form->kind));
    EXPECT_EQ(instruction.length, form->length);
    EXPECT_EQ(instruction.tile[0], form->tile);
    EXPECT_EQ(instruction.memory.base, form->base);
    EXPECT_EQ(instruction.memory.index, form->index);
    if (form->index != kNoRegister) {
      EXPECT_EQ(1 << instruction.memory.scale_log2, form->scale);
    }
    EXPECT_EQ(instruction.memory.displacement, form->displacement);
    EXPECT_FALSE(instruction.memory.address32);
    EXPECT_EQ(instruction.memory.segment, amx::Segment::kFlat);
  }
}

TEST(Decoder, EveryDotProductForm) {
  ASSERT_EQ(octavo_test_dot_forms_end - octavo_test_dot_forms, 8 * 7 * 6 * 4);
  constexpr Opcode kOpcodes[2][2] = {{Opcode::kTdpbuud, Opcode::kTdpbusd},
                                     {Opcode::kTdpbsud, Opcode::kTdpbssd}};
  for (const DotProductForm* form = octavo_test_dot_forms; form < octavo_test_dot_forms_end;
       ++form) {
    Instruction instruction;
    ASSERT_TRUE(Decode(reinterpret_cast<const uint8_t*>(form->code), &instruction));
    EXPECT_EQ(instruction.opcode, kOpcodes[form->signed1][form->signed2]);
    EXPECT_EQ(instruction.length, 5);
    EXPECT_EQ(instruction.tile[0], form->dst);
    EXPECT_EQ(instruction.tile[1], form->src1);
    EXPECT_EQ(instruction.tile[2], form->src2);
  }
}

bool DecodeBytes(std::vector<uint8_t> bytes, Instruction* instruction) {
  bytes.resize(bytes.size() + 16, 0x90);
  return Decode(bytes.data(), instruction);
}

TEST(Decoder, FormsThatAssemblersRarelyMake) {
  Instruction i;
  ASSERT_TRUE(DecodeBytes({0xc4, 0xe2, 0x78, 0x49, 0xc0}, &i));
  EXPECT_EQ(i.opcode, Opcode::kTileRelease);
  ASSERT_TRUE(DecodeBytes({0xc4, 0xe2, 0x7b, 0x49, 0xe8}, &i));
  EXPECT_EQ(i.opcode, Opcode::kTileZero);
  EXPECT_EQ(i.tile[0], 5);
  // ldtilecfg 0x12345678(%rip)
  ASSERT_TRUE(DecodeBytes({0xc4, 0xe2, 0x78, 0x49, 0x05, 0x78, 0x56, 0x34, 0x12}, &i));
  EXPECT_EQ(i.memory.base, kInstructionPointer);
  EXPECT_EQ(i.memory.displacement, 0x12345678);
  EXPECT_EQ(i.length, 9);
  // The same with VEX.B set, which does not turn rip into r13.
  ASSERT_TRUE(DecodeBytes({0xc4, 0xc2, 0x78, 0x49, 0x05, 0x78, 0x56, 0x34, 0x12}, &i));
  EXPECT_EQ(i.memory.base, kInstructionPointer);
  // tileloaddt1 (%rcx,%riz,2), %tmm1: no index whatever the scale.
  ASSERT_TRUE(DecodeBytes({0xc4, 0xe2, 0x79, 0x4b, 0x0c, 0x61}, &i));
  EXPECT_EQ(i.opcode, Opcode::kTileLoadDT1);
  EXPECT_EQ(i.memory.base, 1);
  EXPECT_EQ(i.memory.index, kNoRegister);
  // Index 100 with VEX.X is r12, an index.
  ASSERT_TRUE(DecodeBytes({0xc4, 0xa2, 0x79, 0x4b, 0x0c, 0x61}, &i));
  EXPECT_EQ(i.memory.index, 12);
  // SIB base 101 with mod 0 and VEX.B: a displacement and no base, not r13.
  ASSERT_TRUE(DecodeBytes({0xc4, 0xc2, 0x7b, 0x4b, 0x04, 0x0d, 4, 3, 2, 1}, &i));
  EXPECT_EQ(i.memory.base, kNoRegister);
  EXPECT_EQ(i.memory.displacement, 0x01020304);
  // fs and address-size prefixes, and one without effect.
  ASSERT_TRUE(DecodeBytes({0x64, 0x2e, 0x67, 0xc4, 0xe2, 0x7a, 0x4b, 0x0c, 0x51}, &i));
  EXPECT_EQ(i.memory.segment, amx::Segment::kFs);
  EXPECT_TRUE(i.memory.address32);
  EXPECT_EQ(i.length, 9);
  // Tile numbers beyond the eight tiles are decoded, so that the message can name them.
  ASSERT_TRUE(DecodeBytes({0xc4, 0x62, 0x7b, 0x49, 0xc0}, &i));
  EXPECT_EQ(i.tile[0], 8);
}

TEST(Decoder, RefusesEverythingElse) {
  const std::vector<std::vector<uint8_t>> others = {
      {0x0f, 0x0b},                               // ud2
      {0x90},                                     // nop
      {0xc5, 0xfd, 0x6f, 0x00},                   // vmovdqa ymm
      {0x66, 0xc4, 0xe2, 0x78, 0x49, 0xc0},       // operand-size prefix before VEX
      {0x48, 0xc4, 0xe2, 0x78, 0x49, 0xc0},       // REX before VEX
      {0xc4, 0xe2, 0xf8, 0x49, 0xc0},             // VEX.W
      {0xc4, 0xe2, 0x7c, 0x49, 0xc0},             // VEX.L
      {0xc4, 0xe2, 0x70, 0x49, 0xc0},             // VEX.vvvv on TILERELEASE
      {0xc4, 0xe3, 0x78, 0x49, 0xc0},             // map 0F3A
      {0xc4, 0xe2, 0x78, 0x49, 0xc8},             // reg of TILERELEASE
      {0xc4, 0xe2, 0x78, 0x49, 0xc1},             // rm of TILERELEASE
      {0xc4, 0xe2, 0x7b, 0x49, 0xc1},             // rm of TILEZERO
      {0xc4, 0xe2, 0x7a, 0x49, 0xc0},             // prefix F3 with 49
      {0xc4, 0xe2, 0x78, 0x49, 0x0f},             // reg of LDTILECFG
      {0xc4, 0xe2, 0x7b, 0x4b, 0x0f},             // TILELOADD without SIB
      {0xc4, 0xe2, 0x7b, 0x4b, 0xcc},             // TILELOADD of a register
      {0xc4, 0xe2, 0x78, 0x4b, 0x0c, 0x51},       // 4B without a prefix
      {0xc4, 0xe2, 0x63, 0x5e, 0x0a},             // TDPBSSD from memory
      {0xc4, 0xe2, 0x52, 0x5c, 0xdc},             // TDPBF16PS: AMX-BF16 is not emulated
      {0x67, 0x67, 0x67, 0x67, 0x67, 0x67, 0x67,  // 16 bytes are too many
       0xc4, 0xe2, 0x78, 0x49, 0x05, 0, 0, 0, 0},
  };
  for (size_t n = 0; n < others.size(); ++n) {
    Instruction instruction;
    EXPECT_FALSE(DecodeBytes(others[n], &instruction)) << "case " << n;
  }
}

TEST(Decoder, ReadsNoByteBeyondTheInstruction) {
  constexpr size_t kPage = 4096;
  auto* const pages = static_cast<uint8_t*>(
      mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(pages, MAP_FAILED);
  ASSERT_EQ(mprotect(pages + kPage, kPage, PROT_NONE), 0);
  const auto decode_at_end = [&](const uint8_t* code, size_t length) {
    memcpy(pages + kPage - length, code, length);
    Instruction instruction;
    return Decode(pages + kPage - length, &instruction);
  };
  for (const MemoryForm* form = octavo_test_memory_forms; form < octavo_test_memory_forms_end;
       form += 7) {
    EXPECT_TRUE(decode_at_end(form->code, form->length));
  }
  constexpr uint8_t kReturn = 0xc3, kUd2[] = {0x0f, 0x0b},
                    kOtherVex[] = {0xc4, 0xe1, 0x78, 0x49, 0xc0};
  EXPECT_FALSE(decode_at_end(&kReturn, 1));
  EXPECT_FALSE(decode_at_end(kUd2, 2));
  EXPECT_FALSE(decode_at_end(kOtherVex, 5));
  munmap(pages, 2 * kPage);
}

}  // namespace
}  // namespace octavo::amx_test
