# OCTAVO_AVX_VNNI_AS_EVEX: the same kernels for CPUs that have the instruction in its AVX-512 encoding only, so that they
# can be tested and timed there. The upper registers stay out of use, as this level does not have them.
if(OCTAVO_AVX_VNNI_AS_EVEX)
  set(upper_registers "")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    foreach(i RANGE 16 31)
      list(APPEND upper_registers -ffixed-xmm${i})
    endforeach()
  endif()
  octavo_isa(NAME avx_vnni PRIORITY 25 ARCH "x86_64|AMD64"
    FLAGS -mavx2 -mfma -mf16c -mavx512f -mavx512vl -mavx512vnni -DOCTAVO_AVX_VNNI_AS_EVEX ${upper_registers}
    REQUIRES avx2 fma f16c avx512 avx512_vnni
    SOURCES table.cpp)
else()
  octavo_isa(NAME avx_vnni PRIORITY 25 ARCH "x86_64|AMD64"
    FLAGS -mavx2 -mfma -mf16c -mavxvnni
    REQUIRES avx2 fma f16c avx_vnni
    SOURCES table.cpp)
endif()
