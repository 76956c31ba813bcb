octavo_isa(NAME avx512_vnni PRIORITY 40 ARCH "x86_64|AMD64"
  FLAGS -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni
  REQUIRES avx2 fma f16c avx512 avx512_vnni
  SOURCES table.cpp)
