// Emulates AMX-TILE and AMX-INT8 in user space, for tests on CPUs without AMX; README.md beside
// this file says how. The functions may be declared by hand or looked up with dlsym: loading the
// library is what turns emulation on.
#pragma once

#include <cstdint>

extern "C" {

// "amx_tile,amx_int8" while this process emulates them; "" where the CPU has AMX itself or
// emulation is off.
const char* octavo_emulated_cpu_features(void);

// How many AMX instructions this process has emulated so far, all threads together.
uint64_t octavo_emulated_instruction_count(void);
}
