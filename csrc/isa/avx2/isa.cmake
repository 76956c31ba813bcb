octavo_isa(NAME avx2 PRIORITY 20 ARCH "x86_64|AMD64"
  FLAGS -mavx2 -mfma
  REQUIRES avx2 fma
  SOURCES table.cpp)
