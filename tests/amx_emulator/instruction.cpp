#include "instruction.h"

#include <cstring>

namespace octavo::amx {
namespace {

enum Prefix : uint8_t { kNp = 0, k66 = 1, kF3 = 2, kF2 = 3 };  // VEX.pp

// The three bytes of a VEX prefix, inverted bits set right.
struct Vex {
  explicit Vex(const uint8_t* bytes)
      : reg(static_cast<uint8_t>((~bytes[1] >> 4) & 8)),
        index(static_cast<uint8_t>((~bytes[1] >> 3) & 8)),
        base(static_cast<uint8_t>((~bytes[1] >> 2) & 8)),
        map(bytes[1] & 0x1f),
        wide(bytes[2] >> 7),
        source(static_cast<uint8_t>((~bytes[2] >> 3) & 0xf)),
        length(static_cast<uint8_t>((bytes[2] >> 2) & 1)),
        prefix(static_cast<Prefix>(bytes[2] & 3)) {}

  uint8_t reg, index, base;  // 8 or 0, to be added to three bits of ModRM or SIB
  uint8_t map;
  uint8_t wide;
  uint8_t source;  // vvvv
  uint8_t length;
  Prefix prefix;
};

struct ModRm {
  explicit ModRm(uint8_t byte) : mod(byte >> 6), reg((byte >> 3) & 7), rm(byte & 7) {}
  bool is_register() const { return mod == 3; }
  bool has_sib() const { return mod != 3 && rm == 4; }
  uint8_t mod, reg, rm;
};

// Which instruction this is, if any; ModRM.rm and .reg are looked at where they are part of the
// opcode.
bool FindOpcode(uint8_t byte, const Vex& vex, const ModRm& modrm, Opcode* opcode) {
  if (byte == 0x49 && !modrm.is_register() && modrm.reg == 0) {
    *opcode = vex.prefix == kNp ? Opcode::kLdTileCfg : Opcode::kStTileCfg;
    return vex.prefix == kNp || vex.prefix == k66;
  }
  if (byte == 0x49 && modrm.is_register() && modrm.rm == 0) {
    *opcode = vex.prefix == kNp ? Opcode::kTileRelease : Opcode::kTileZero;
    return (vex.prefix == kNp && modrm.reg == 0) || vex.prefix == kF2;
  }
  if (byte == 0x4b && modrm.has_sib()) {
    *opcode = vex.prefix == kF2   ? Opcode::kTileLoadD
              : vex.prefix == k66 ? Opcode::kTileLoadDT1
                                  : Opcode::kTileStoreD;
    return vex.prefix != kNp;
  }
  if (byte == 0x5e && modrm.is_register()) {
    constexpr Opcode kByPrefix[4] = {Opcode::kTdpbuud, Opcode::kTdpbusd, Opcode::kTdpbsud,
                                     Opcode::kTdpbssd};
    *opcode = kByPrefix[vex.prefix];
    return true;
  }
  return false;
}

// Decodes SIB and displacement from `at` on; returns the end of the instruction.
const uint8_t* DecodeMemory(const uint8_t* at, const Vex& vex, const ModRm& modrm,
                            MemoryOperand* memory) {
  int displacement_bytes = modrm.mod == 1 ? 1 : modrm.mod == 2 ? 4 : 0;
  if (modrm.has_sib()) {
    const uint8_t sib = *at++;
    memory->scale_log2 = sib >> 6;
    const auto index = static_cast<int8_t>(((sib >> 3) & 7) | vex.index);
    if (index != 4) memory->index = index;
    if ((sib & 7) == 5 && modrm.mod == 0) {
      displacement_bytes = 4;
    } else {
      memory->base = static_cast<int8_t>((sib & 7) | vex.base);
    }
  } else if (modrm.mod == 0 && modrm.rm == 5) {
    memory->base = kInstructionPointer;
    displacement_bytes = 4;
  } else {
    memory->base = static_cast<int8_t>(modrm.rm | vex.base);
  }
  if (displacement_bytes == 1) {
    memory->displacement = static_cast<int8_t>(*at);
  } else if (displacement_bytes == 4) {
    std::memcpy(&memory->displacement, at, 4);
  }
  return at + displacement_bytes;
}

// Takes the legacy prefixes that may stand before VEX; returns what follows them.
const uint8_t* DecodePrefixes(const uint8_t* at, MemoryOperand* memory) {
  constexpr int kMaxPrefixes =
      15 - 5;  // an instruction has at most 15 bytes, and VEX with ModRM is 5 of them
  for (int i = 0; i < kMaxPrefixes; ++i, ++at) {
    switch (*at) {
      case 0x26:  // es, cs, ss, ds: no effect in 64-bit mode
      case 0x2e:
      case 0x36:
      case 0x3e:
        break;
      case 0x64:
        memory->segment = Segment::kFs;
        break;
      case 0x65:
        memory->segment = Segment::kGs;
        break;
      case 0x67:
        memory->address32 = true;
        break;
      default:
        return at;
    }
  }
  return at;
}

}  // namespace

const char* Name(Opcode opcode) {
  constexpr const char* kNames[] = {"ldtilecfg", "sttilecfg",   "tilerelease", "tilezero",
                                    "tileloadd", "tileloaddt1", "tilestored",  "tdpbssd",
                                    "tdpbsud",   "tdpbusd",     "tdpbuud"};
  return kNames[static_cast<int>(opcode)];
}

bool Decode(const uint8_t* code, Instruction* instruction) {
  *instruction = {};
  const uint8_t* at = DecodePrefixes(code, &instruction->memory);
  if (at[0] != 0xc4) return false;
  const Vex vex(at);
  if (vex.map != 2 || vex.wide != 0 || vex.length != 0) return false;
  const uint8_t opcode = at[3];
  if (opcode != 0x49 && opcode != 0x4b && opcode != 0x5e) return false;
  const ModRm modrm(at[4]);
  if (!FindOpcode(opcode, vex, modrm, &instruction->opcode)) return false;
  if (opcode != 0x5e && vex.source != 0) return false;
  at += 5;

  instruction->tile[0] = modrm.reg | vex.reg;
  instruction->tile[1] = modrm.rm | vex.base;
  instruction->tile[2] = vex.source;
  if (!modrm.is_register()) at = DecodeMemory(at, vex, modrm, &instruction->memory);
  instruction->length = static_cast<uint8_t>(at - code);
  return instruction->length <= 15;
}

}  // namespace octavo::amx
