#!/bin/sh
# dev/hip_clang.sh ARGUMENT...: clang 19 in hipcc's place, with the HIP headers of Debian's 5.2.3, for the chips that
# the compiler of 5.2.3 does not know:
#   apt-get install clang-19 clang-tools-19 lld-19 llvm-19 libamdhip64-dev rocm-device-libs
#   make hip-report HIPCC=dev/hip_clang.sh GPU_TARGETS="gfx942 gfx1151 gfx1201"
# It shows that the code compiles and what becomes of it. For a program that runs on such a chip take a ROCm that knows it.
set -eu
exec clang++-19 -x hip --rocm-path=/usr "$@"
