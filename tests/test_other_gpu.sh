#!/bin/sh
# tests/test_other_gpu.sh GPT2: a program with a GPU path on a machine whose one GPU is a gfx1099, by the driver's files,
# laid over /sys for this script alone (which takes root). HIP before version 6 ends a program that has no code for one of
# the machine's GPUs; this one is to name it, and to go on with the CPU unless the GPU was asked for.
set -eu
here=$(dirname "$0")/..
if [ "${2:-}" != alone ]; then
    if ! unshare -m mount -t tmpfs none /sys; then
        echo "skip: nothing can be mounted here"
        exit 0
    fi
    exec unshare -m "$0" "$1" alone
fi
mount -t tmpfs none /sys
mkdir -p /sys/class/kfd/kfd/topology/nodes/0
echo "gfx_target_version 100909" > /sys/class/kfd/kfd/topology/nodes/0/properties
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
run() { "$1" -m "$here/models/fairytales.bin" -p Once -n 5 --device "$2" > "$out/$2" 2> "$out/$2.err"; }
run "$1" cpu
run "$1" auto
if run "$1" gpu; then exit 1; fi
cmp "$out/auto" "$out/cpu"
grep 'holds no code for .* gfx1099, .*; this run is on the CPU$' "$out/auto.err"
grep 'holds no code for .* gfx1099, ' "$out/gpu.err"
"$1" --list-devices 2>&1 > /dev/null | grep 'holds no code for .* gfx1099, '
echo "1 passed, 0 failed"
