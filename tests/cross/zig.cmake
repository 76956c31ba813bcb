# A CMake toolchain that compiles for other systems with the clang of PyPI's `ziglang` package, which carries the headers
# and C libraries of each. OCTAVO_ZIG_TARGET names the system as zig does: x86_64-linux-gnu.2.28 (with the oldest glibc to
# run on), aarch64-linux-gnu.2.28, aarch64-macos, x86_64-windows-gnu ... OCTAVO_ZIG_PYTHON is the interpreter that has the
# package.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES OCTAVO_ZIG_TARGET OCTAVO_ZIG_PYTHON)
foreach(name OCTAVO_ZIG_TARGET OCTAVO_ZIG_PYTHON)
  if(NOT ${name})
    set(${name} "$ENV{${name}}")
  endif()
  if(NOT ${name})
    message(FATAL_ERROR "${name} is not set: as a CMake variable or in the environment")
  endif()
endforeach()

string(REGEX MATCH "^[^-]+" CMAKE_SYSTEM_PROCESSOR "${OCTAVO_ZIG_TARGET}")
if(OCTAVO_ZIG_TARGET MATCHES "-macos")
  set(CMAKE_SYSTEM_NAME Darwin)
elseif(OCTAVO_ZIG_TARGET MATCHES "-windows")
  set(CMAKE_SYSTEM_NAME Windows)
else()
  set(CMAKE_SYSTEM_NAME Linux)
endif()

# CMake and ccache want programs of one word. zig reads -march as the name of a CPU: the architecture's extensions are
# those of its generic CPU, one by one. Only for Linux is anything linked: for others, CMake's first try of the compiler
# would build their C and C++ libraries, which takes minutes.
set(objects_only "")
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  string(CONCAT objects_only "[[ \" $* \" == *\" -c \"* || \" $* \" == *\" -E \"* ]] || "
    "{ echo 'nothing is linked for this system' >&2; exit 1; }\n")
endif()
# Debian's pyconfig.h includes another from here; behind the compiler's own headers.
set(headers "")
if(NOT "$ENV{OCTAVO_PYTHON_ROOT}" STREQUAL "")
  set(headers " -idirafter '$ENV{OCTAVO_PYTHON_ROOT}/usr/include'")
endif()
set(zig_tools "${CMAKE_BINARY_DIR}/zig")
foreach(tool c++ ar ranlib)
  set(arguments "\"$@\"")
  set(check "")
  if(tool STREQUAL "c++")
    set(arguments "-target ${OCTAVO_ZIG_TARGET}${headers} \"$@\"")
    set(check "${objects_only}")
  endif()
  file(WRITE "${zig_tools}/${tool}.new" "#!/bin/bash\n"
    "for argument; do\n"
    "  shift\n"
    "  [[ $argument =~ ^-march=armv8(\\.[0-9])?-a(.*)$ ]] && argument=-mcpu=generic\${BASH_REMATCH[2]}\n"
    "  set -- \"$@\" \"$argument\"\n"
    "done\n"
    "${check}"
    "exec '${OCTAVO_ZIG_PYTHON}' -m ziglang ${tool} ${arguments}\n")
  file(COPY_FILE "${zig_tools}/${tool}.new" "${zig_tools}/${tool}" ONLY_IF_DIFFERENT)
  file(CHMOD "${zig_tools}/${tool}" PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
endforeach()
set(CMAKE_CXX_COMPILER "${zig_tools}/c++")
set(CMAKE_AR "${zig_tools}/ar" CACHE FILEPATH "")
set(CMAKE_RANLIB "${zig_tools}/ranlib" CACHE FILEPATH "")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)

# Another CPython than the building machine's: OCTAVO_PYTHON_ROOT (environment) is a folder with Debian's packages of it
# unpacked, as tests/arm makes it. FORCE: scikit-build-core fills the cache with the headers of the interpreter that runs.
if(NOT "$ENV{OCTAVO_PYTHON_ROOT}" STREQUAL "")
  set(Python_INCLUDE_DIR "$ENV{OCTAVO_PYTHON_ROOT}/usr/include/python3.11" CACHE PATH "" FORCE)
  set(PYTHON_MODULE_EXT_SUFFIX "$ENV{SETUPTOOLS_EXT_SUFFIX}" CACHE STRING "")
  set(PYBIND11_USE_CROSSCOMPILING ON CACHE BOOL "")
endif()
