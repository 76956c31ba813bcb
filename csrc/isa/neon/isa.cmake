octavo_isa(NAME neon PRIORITY 20 ARCH "aarch64|arm64|ARM64"
  FLAGS -march=armv8-a
  REQUIRES neon
  SOURCES table.cpp)
