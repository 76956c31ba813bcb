# Cross builds for 64-bit ARM Linux with Debian's g++-aarch64-linux-gnu.
#
# ARM_ROOT (a variable of CMake or of the environment) is a folder with arm64 packages unpacked, as tests/arm/cpp
# makes it: it has Google Test, and CPython's headers and libraries.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
if(NOT ARM_ROOT)
  set(ARM_ROOT "$ENV{ARM_ROOT}")
endif()
# Also in the projects by which CMake tries the compiler.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ARM_ROOT)
if(NOT IS_DIRECTORY "${ARM_ROOT}/usr/include")
  message(FATAL_ERROR "ARM_ROOT='${ARM_ROOT}' is not a folder with arm64 packages; tests/arm/cpp makes one")
endif()

set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH "${ARM_ROOT}" /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH) # pybind11 is a package of the machine that builds
# Behind the compiler's own headers, which include_next expects in their order.
set(CMAKE_C_FLAGS_INIT "-idirafter ${ARM_ROOT}/usr/include")
set(CMAKE_CXX_FLAGS_INIT "-idirafter ${ARM_ROOT}/usr/include")

# ctest runs every test this way. The environment decides: QEMU_LD_PREFIX=/usr/aarch64-linux-gnu, QEMU_CPU=<model>.
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static)

# The interpreter that CMake runs is the building machine's. FORCE: scikit-build-core fills the cache with its headers.
set(Python_INCLUDE_DIR "${ARM_ROOT}/usr/include/python3.11" CACHE PATH "" FORCE)
set(PYTHON_MODULE_EXT_SUFFIX ".cpython-311-aarch64-linux-gnu.so" CACHE STRING "")
set(PYBIND11_USE_CROSSCOMPILING ON CACHE BOOL "")
