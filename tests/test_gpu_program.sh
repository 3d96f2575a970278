#!/bin/sh
# tests/test_gpu_program.sh DIRECTORY: builds gpt2 with the host harness as its GPU into DIRECTORY and compares the text
# of --device gpu with that of --device cpu: greedy, sampled, with logits on the CPU, at both wave sizes, and with a
# call of HIP that fails at some point, after which the CPU must go on with the same text.
set -u
cd "$(dirname "$0")/.." || exit 1
out=$1
mkdir -p "$out"
make BUILD="$out/build" HIP=host HIP_TEST=0 GPT2="$out/gpt2_host" "$out/gpt2_host" > "$out/log" 2>&1 || { tail "$out/log"; exit 1; }
passed=0 failed=0

check() { # CLAIM COMMAND...
    claim=$1
    shift
    if "$@"; then passed=$((passed + 1)) verdict=ok; else failed=$((failed + 1)) verdict=FAILED; fi
    printf '  %-6s %s\n' "$verdict" "$claim"
}
text() { "$out/gpt2_host" -m models/fairytales.bin -p "Once upon a time" -q "$@" 2> "$out/err"; }
same() { # do the arguments give on the GPU what they give on the CPU?
    text --device cpu "$@" > "$out/cpu" && text --device gpu "$@" > "$out/gpu" && cmp -s "$out/cpu" "$out/gpu"
}
goes_on() { # one error on standard error, and the same text
    text --device cpu -n 8 > "$out/cpu" && HIP_HOST_FAIL_CALL=$2 text --device "$1" -n 8 > "$out/gpu" &&
        cmp -s "$out/cpu" "$out/gpu" && [ "$(grep -c "$3" "$out/err")" = "$4" ]
}
stops() { # before the first token --device gpu means the GPU or nothing
    ! HIP_HOST_FAIL_CALL=$1 text --device gpu -n 8 > "$out/gpu" && grep -q '^gpt2: GPU' "$out/err"
}
no_gpu() { ! HIP_HOST_DEVICES=0 text --device gpu -n 1 > "$out/gpu" && grep -q 'none found' "$out/err"; }
wave64() { HIP_HOST_WAVE=64 text --device gpu -n 4 > "$out/gpu" && text --device cpu -n 4 | cmp -s - "$out/gpu"; }
listed() { "$out/gpt2_host" --list-devices | grep -q '^gpu:0  host harness'; }

check "greedy text is the CPU's" same -n 10
check "at wave size 64 too" wave64
check "with logits on the CPU" same -n 6 --cpu-logits
check "sampled text is the CPU's" same -n 10 --temp 0.8 --top-k 40 -s 3
check "two samples too" same -n 6 -b 2 --temp 0.5 -s 1
check "--device gpu fails when a call fails before the first token" stops 60
check "--device auto does not" goes_on auto 60 nothing 0
check "a call that fails in the text: one line, and the CPU goes on with the same text" goes_on gpu 216 'the CPU goes on' 1
check "no GPU: --device gpu says so" no_gpu
check "--list-devices lists it" listed
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
