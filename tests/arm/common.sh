# What the scripts in this folder share; sourced by bash.

arm_tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_dir=$(cd "$arm_tests/../.." && pwd)
readonly arm_tests source_dir

# Each emulated CPU, and the best ISA that it must run.
readonly CPUS=(cortex-a72 neoverse-n1 max,sve=off)
declare -rA ISA_OF=([cortex-a72]=neon [neoverse-n1]=neon_dotprod [max,sve=off]=neon_i8mm)

fail() {
  printf 'tests/arm: %s\n' "$1" >&2
  exit 1
}

# Installs those Debian packages of the arguments that are missing, which takes root.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ "${#missing[@]}" -eq 0 ] && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# What a cross build needs. CMake and Ninja may come from elsewhere.
install_compiler() {
  local packages=(g++-aarch64-linux-gnu mmdebstrap qemu-user-static)
  command -v cmake >/dev/null || packages+=(cmake)
  command -v ninja >/dev/null || packages+=(ninja-build)
  install_packages "${packages[@]}"
}

# The mirror that this machine's apt takes Debian from.
debian_mirror() {
  # shellcheck disable=SC2016 # apt's own variable
  apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 -v security ||
    awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/*.sources
}

# Unpacks arm64 packages of Debian 12 in folder $1: C and C++ libraries, those of sanitizers, Google Test, CPython 3.11.
# Nothing in it is run or configured, and this machine's own packages stay as they are.
make_root() {
  local root=$1
  [ -f "$root/.complete" ] && return
  rm -rf "$root"
  mmdebstrap -q --variant=extract --architectures=arm64 \
    --include=python3.11,libpython3.11-dev,libasan8,libgomp1,libstdc++6,libubsan1,libgtest-dev \
    bookworm "$root" "$(debian_mirror)"
  touch "$root/.complete"
}

# configure_cpp <build folder> <arm64 root> [cmake option...]
configure_cpp() {
  local build=$1 root=$2
  shift 2
  cmake -S "$source_dir" -B "$build" -G Ninja "-DCMAKE_TOOLCHAIN_FILE=$arm_tests/toolchain-aarch64.cmake" \
    "-DARM_ROOT=$root" "$@"
}
