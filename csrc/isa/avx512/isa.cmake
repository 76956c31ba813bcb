octavo_isa(NAME avx512 PRIORITY 30 ARCH "x86_64|AMD64"
  FLAGS -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl
  REQUIRES avx2 fma f16c avx512
  SOURCES table.cpp)
