octavo_isa(NAME avx2 PRIORITY 20 ARCH "x86_64|AMD64"
  FLAGS -mavx2 -mfma -mf16c
  REQUIRES avx2 fma f16c
  SOURCES table.cpp)
