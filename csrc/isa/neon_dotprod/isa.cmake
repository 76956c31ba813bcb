octavo_isa(NAME neon_dotprod PRIORITY 30 ARCH "aarch64|arm64|ARM64"
  FLAGS -march=armv8.2-a+dotprod
  REQUIRES neon dotprod
  SOURCES table.cpp)
