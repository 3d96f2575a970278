#!/bin/sh
# dev/hip_device_library.sh HIPCC VERSION: for a compiler that knows a chip which its device library does not (Debian's
# hipcc 5.2.3 and gfx1100; clang 19 with that library and gfx942, gfx1151 or gfx1201). Prints a directory with the
# library's files and the one that is missing, oclc_isa_version_VERSION.bc: a constant that tells the library which chip
# it runs on, made from that of gfx1030. LLVM reads the bitcode of older releases, so the rest of the library serves.
set -eu
hipcc=$1
version=$2
isa=oclc_isa_version_$version.bc

fail() {
    echo "hip_device_library.sh: $*" >&2
    exit 1
}

clang=$("$hipcc" --version 2> /dev/null | sed -n 's/^InstalledDir: //p')
major=$("$hipcc" --version 2> /dev/null | sed -n 's/.*clang version \([0-9]*\).*/\1/p')
out="${TMPDIR:-/tmp}/gpt2-hip-library-$major-$(id -u)" # one LLVM cannot read what a later one writes
tool() { # the LLVM tool that belongs to hipcc's clang
    for path in "/usr/lib/llvm-$major/bin/$1" "$clang/$1-$major" "$clang/$1"; do
        if [ -x "$path" ]; then
            echo "$path"
            return
        fi
    done
    fail "no $1 of LLVM $major; install llvm-$major"
}

library=
for path in "$clang"/../amdgcn/bitcode "$clang"/../lib/*/amdgcn/bitcode /usr/lib/*/amdgcn/bitcode "$clang"/../../amdgcn/bitcode; do
    if [ -f "$path/oclc_isa_version_1030.bc" ]; then library=$path; fi
done
[ -n "$library" ] || fail "no device library found; install rocm-device-libs"

# 1100 is major 11, minor 0, step 0 (a hexadecimal digit): 11000 to the library, as gfx1030 is 10300
minor_step=${version#"${version%??}"}
number=$((${version%??} * 1000 + 0x${minor_step%?} * 100 + 0x${minor_step#?}))
mkdir -p "$out"
[ -O "$out" ] || fail "$out belongs to someone else"
if [ ! -s "$out/$isa" ]; then
    for file in "$library"/*.bc; do ln -sf "$file" "$out/"; done
    "$(tool llvm-dis)" -o - "$library/oclc_isa_version_1030.bc" |
        sed "s/i32 10300/i32 $number/" | "$(tool llvm-as)" -o "$out/$isa.$$"
    mv "$out/$isa.$$" "$out/$isa"
fi
echo "$out"
