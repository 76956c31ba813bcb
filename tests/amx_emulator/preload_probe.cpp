// AMX code in a shared library, for preload_test.py to call through ctypes.
#include "test_amx.h"

using octavo::amx_test::Config;
using octavo::amx_test::Load;

extern "C" {

// c[16][16] += a[16][64] * b, where b[16][64] holds four successive rows of the second matrix in
// each dword.
void octavo_probe_product(const uint8_t* a, const int8_t* b, int32_t* c) {
  octavo::amx_test::LoadConfig(Config::AllFull());
  Load<0>(c, 64);
  Load<1>(a, 64);
  Load<2>(b, 64);
  __asm__ volatile("tdpbusd %%tmm2, %%tmm1, %%tmm0" : : : "memory");
  octavo::amx_test::Store<0>(c, 64);
  octavo::amx_test::Release();
}

void octavo_probe_unconfigured() { octavo::amx_test::Zero<3>(); }

void octavo_probe_ud2() { __asm__ volatile("ud2"); }
}
