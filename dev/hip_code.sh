#!/bin/sh
# dev/hip_code.sh HIPCC FLAGS SOURCE OUT TARGET...: the machine code of every kernel in SOURCE for each target, as files that
# the host harness runs: OUT/TARGET.co, the code object, and OUT/TARGET.txt, its disassembly (dev/hip_host/amd_code.h).
set -eu
hipcc=$1
flags=$2
source=$3
out=$4
shift 4
here=$(dirname "$0")
if [ -z "$hipcc" ]; then
    echo "hip_code.sh: no hipcc in PATH or /opt/rocm/bin" >&2
    exit 1
fi
major=$("$hipcc" --version 2> /dev/null | sed -n 's/.*clang version \([0-9]*\).*/\1/p')
bin=$("$hipcc" --version 2> /dev/null | sed -n 's/^InstalledDir: //p')
objdump=
for path in "/usr/lib/llvm-$major/bin/llvm-objdump" "$bin/llvm-objdump" "$bin/llvm-objdump-$major"; do
    if [ -z "$objdump" ] && [ -x "$path" ]; then objdump=$path; fi
done
if [ -z "$objdump" ]; then
    echo "hip_code.sh: no llvm-objdump of LLVM $major; install llvm-$major" >&2
    exit 1
fi
mkdir -p "$out"
scratch=$(mktemp -d) # clang 15 leaves empty directories behind
trap 'rm -rf "$scratch"' EXIT
for target; do
    # shellcheck disable=SC2046,SC2086 # flags are words
    TMPDIR=$scratch "$hipcc" $flags $("$here/hip_targets.sh" "$hipcc" "$target") --cuda-device-only -Wno-unused-command-line-argument \
        --no-gpu-bundle-output -c "$source" -o "$out/$target.co"
    "$objdump" -d "$out/$target.co" > "$out/$target.txt"
done
