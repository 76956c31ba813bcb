// Decoder for the AMX-TILE and AMX-INT8 instructions (Intel SDM, volume 2): VEX.128.0F38.W0,
// opcodes 49, 4B and 5E.
#pragma once

#include <cstdint>

namespace octavo::amx {

enum class Opcode : uint8_t {
  kLdTileCfg,
  kStTileCfg,
  kTileRelease,
  kTileZero,
  kTileLoadD,
  kTileLoadDT1,
  kTileStoreD,
  kTdpbssd,
  kTdpbsud,
  kTdpbusd,
  kTdpbuud,
};

const char* Name(Opcode opcode);

constexpr int8_t kNoRegister = -1;
constexpr int8_t kInstructionPointer = 16;

enum class Segment : uint8_t { kFlat, kFs, kGs };

// General registers by their numbers in encodings: rax rcx rdx rbx rsp rbp rsi rdi r8 .. r15.
struct MemoryOperand {
  int8_t base =
      kNoRegister;  // 0..15, kNoRegister, or kInstructionPointer (of the next instruction)
  int8_t index = kNoRegister;  // 0..15 or kNoRegister
  uint8_t scale_log2 = 0;
  int32_t displacement = 0;
  Segment segment = Segment::kFlat;
  bool address32 = false;  // address-size prefix
};

struct Instruction {
  Opcode opcode;
  uint8_t length = 0;    // bytes, prefixes included
  uint8_t tile[3] = {};  // ModRM.reg, ModRM.rm, VEX.vvvv: destination (or the only tile), first,
                         // second source; 0..15
  MemoryOperand memory;
};

// Decodes what lies at `code`; false where that is not one of these instructions, malformed
// encodings included. Reads no byte beyond those of the instruction there.
bool Decode(const uint8_t* code, Instruction* instruction);

}  // namespace octavo::amx
