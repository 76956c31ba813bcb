octavo_isa(NAME neon_i8mm PRIORITY 40 ARCH "aarch64|arm64|ARM64"
  FLAGS -march=armv8.2-a+dotprod+i8mm
  REQUIRES neon dotprod i8mm
  SOURCES table.cpp)
