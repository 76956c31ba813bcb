octavo_isa(NAME amx_int8 PRIORITY 50 ARCH "x86_64|AMD64"
  FLAGS -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mamx-tile -mamx-int8
  REQUIRES avx2 fma f16c avx512 avx512_vnni amx_tile amx_int8
  SOURCES table.cpp)
