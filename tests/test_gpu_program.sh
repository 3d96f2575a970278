#!/bin/sh
# tests/test_gpu_program.sh DIRECTORY: builds gpt2 with the host harness as its GPU into DIRECTORY and compares the text
# of --device gpu with that of --device cpu: greedy, sampled, with logits on the CPU, at both wave sizes, and with a
# call of HIP that fails at some point, after which the CPU must go on with the same text. Then everything that looks
# inside a run (--verify, --profile, --perplexity, --logits), on the GPU, on a damaged model and on a GPU that is lost.
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
does_without() { # no GPU before the first token: with --device auto the same text, and -q says nothing
    text --device cpu -n 8 > "$out/cpu" && HIP_HOST_FAIL_CALL=$1 text --device auto -n 8 > "$out/gpu" &&
        cmp -s "$out/cpu" "$out/gpu" && [ ! -s "$out/err" ]
}
# goes_on_somewhere LOST: a call fails, and if LOST is 1 all after it. At some of these calls the text has begun, and
# wherever it has, it goes on as it was, and one line says how. After one failed call that may be the next route on the
# GPU: which route a run takes its own trial decides, and only a persistent kernel's start has one behind it.
goes_on_somewhere() {
    text --device cpu -n 8 > "$out/cpu" || return 1
    if [ "$1" = 1 ]; then how='the CPU goes on'; else how='the CPU goes on|the persistent kernel does not start'; fi
    takeovers=0
    for call in $(seq 250 5 300); do
        HIP_HOST_LOST=$1 HIP_HOST_FAIL_CALL=$call text --device gpu -n 8 > "$out/gpu"
        if [ ! -s "$out/gpu" ] && grep -q '^gpt2: GPU' "$out/err"; then continue; fi
        cmp -s "$out/cpu" "$out/gpu" || return 1
        lines=$(grep -c . "$out/err")
        if [ "$lines" -gt 0 ] && ! { [ "$lines" = 1 ] && grep -qE "$how" "$out/err"; }; then return 1; fi
        takeovers=$((takeovers + $(grep -c 'the CPU goes on' "$out/err")))
    done
    [ "$takeovers" -gt 0 ]
}
stops() { # before the first token --device gpu means the GPU or nothing
    ! HIP_HOST_FAIL_CALL=$1 text --device gpu -n 8 > "$out/gpu" && grep -q '^gpt2: GPU' "$out/err"
}
no_gpu() { ! HIP_HOST_DEVICES=0 text --device gpu -n 1 > "$out/gpu" && grep -q 'none found' "$out/err"; }
packed() { # what is packed for the CPU is unpacked for the GPU
    text --device gpu --dtype bf16 -n 4 > "$out/cpu" && text --device gpu --dtype bf16z -n 4 > "$out/gpu" &&
        cmp -s "$out/cpu" "$out/gpu"
}
image() { # and what is packed in a file
    "$out/gpt2_host" -m models/fairytales.bin --dtype bf16z --save "$out/image.bin" -q &&
        text -m "$out/image.bin" -T models/fairytales_tokenizer.bin --device gpu -n 4 > "$out/gpu" && cmp -s "$out/cpu" "$out/gpu"
}
wave64() { HIP_HOST_WAVE=64 text --device gpu -n 4 > "$out/gpu" && text --device cpu -n 4 | cmp -s - "$out/gpu"; }
# the number behind the first "key": of a JSON text
number() { sed -n "s/.*\"$1\": \([-0-9.e+]*\).*/\1/p" "$2" | head -n 1; }
near() { awk -v a="$1" -v b="$2" -v r="$3" 'BEGIN { d = a / b - 1; exit !(a != "" && b != "" && d < r && d > -r) }'; }
verified() { # the GPU in every weight type, and the CPU beside it
    text --verify --layers 2 > "$out/verify" && [ "$(grep -c ' GPU 0 .* PASSED$' "$out/verify")" = 4 ] &&
        grep -q ' CPU .* PASSED$' "$out/verify" && [ "$(tail -n 1 "$out/verify")" = PASSED ]
}
zeroed_layer() { # a copy of the model without the weights of one layer's matrix, found where --info says
    "$out/gpt2_host" -m models/fairytales.bin --info --json | grep '"attprojw"' > "$out/attprojw"
    offset=$(number offset "$out/attprojw") bytes=$(($(number bytes "$out/attprojw") / 8))
    start=$((offset + 3 * bytes))
    { head -c "$start" models/fairytales.bin; head -c "$bytes" /dev/zero; tail -c "+$((start + bytes + 1))" models/fairytales.bin; } > "$out/zeroed.bin"
    cmp -s "$out/zeroed.bin" models/fairytales.bin && return 1
    ! "$out/gpt2_host" -m "$out/zeroed.bin" -T models/fairytales_tokenizer.bin --device gpu --dtype bf16 \
        -p "Once upon a time" --verify=models/fairytales.bin > "$out/verify" &&
        grep -q 'GPU 0 .*FAILED, first at layer 3$' "$out/verify" && ! grep -q PASSED "$out/verify"
}
one_line() { # a program that has failed: one line on standard error, none on standard output, exit status 1
    [ "$1" = 1 ] && ! [ -s "$out/lost" ] && [ "$(grep -c '' "$out/err")" = 1 ] && grep -q '^gpt2: GPU: error 719' "$out/err"
}
lost() { # ARGUMENTS...: whichever call of HIP it is that fails, in opening the GPU or later
    failures=0
    for call in 20 40 60 75 90 110 130 150 165 175 185 200 215 250; do # some of those in the middle try out routes
        HIP_HOST_FAIL_CALL=$call
        export HIP_HOST_FAIL_CALL
        text --device gpu "$@" > "$out/lost"
        status=$?
        unset HIP_HOST_FAIL_CALL
        [ "$status" = 0 ] && continue # that many calls were not made
        one_line "$status" || return 1
        failures=$((failures + 1))
    done
    [ "$failures" -ge 5 ]
}
lost_in_verify() { # a GPU that is lost fails in its row, the others go on
    for call in 60 80 100 120 140; do
        ! HIP_HOST_FAIL_CALL=$call text --verify --layers 2 --dtype bf16 > "$out/verify" &&
            grep -q 'GPU 0 .*FAILED: GPU: error 719' "$out/verify" && grep -q 'CPU .*PASSED$' "$out/verify" &&
            [ "$(tail -n 1 "$out/verify")" = FAILED ] && return 0
    done
    return 1
}
profiled() { # operations and overhead make the wall time, in both phases
    text --device gpu -n 2 --profile=json > "$out/profile" && grep -q '"device": "GPU 0' "$out/profile" &&
        awk 'function value(key) { return match($0, "\"" key "\": [-0-9.e+]+") ? substr($0, RSTART + length(key) + 4, RLENGTH) + 0 : 0 }
             /"wall_ms"/ { wall += value("wall_ms"); sum += value("overhead_ms"); ok += value("overhead_ms") >= 0; phases++ }
             /"ms"/ { sum += value("ms"); rows += value("ms") > 0 }
             END { exit !(phases == 2 && ok == 2 && rows == 14 && sum > wall * 0.99999 && sum < wall * 1.00001) }' "$out/profile" &&
        text --device gpu -n 2 --profile | grep -q '^qkv  *16  *1 x 768 x 256 '
}
profiled_prompt() { # of more than 8 tokens: 5 rows for its last one, 7 for the token behind it
    for device in cpu gpu; do
        "$out/gpt2_host" -m models/fairytales.bin -p "Once upon a time there was a king who had a son" -n 1 -q \
            --device $device --profile=json 2> "$out/err" | grep -oE '"operation".*"K": [0-9]+|"flops": [0-9.e+]+' > "$out/rows_$device"
    done
    [ "$(grep -c '"M": 1, ' "$out/rows_gpu")" = 12 ] && cmp -s "$out/rows_cpu" "$out/rows_gpu"
}
scored() { # windows that are cut, in the GPU's f32 as in the CPU's
    for device in cpu gpu; do
        "$out/gpt2_host" -m models/fairytales.bin -f "$out/text" --perplexity --ctx 24 --stride 10 --json \
            --device $device > "$out/score_$device" 2> "$out/err" || return 1
    done
    grep -q '"device": "GPU 0' "$out/score_gpu" &&
        near "$(number perplexity "$out/score_gpu")" "$(number perplexity "$out/score_cpu")" 1e-5 &&
        text --device gpu --top 2 --all | grep -q "^0 after 'Once': next ' upon'"
}
logits_written() {
    text --device gpu --dtype f32 -n 0 --logits "$out/gpu.npy" > "$out/gpu" &&
        text --device cpu --dtype f32 --verify="$out/gpu.npy" --tolerance 1e-5 > "$out/verify"
}
estimated() {
    text --estimate -n 0 > "$out/estimate" && grep -q '^this GPU (host harness, wave32); roof: ' "$out/estimate" &&
        grep -q '^this CPU ' "$out/estimate" && ! text --estimate --device gpu:1 > "$out/estimate" &&
        grep -q 'there is 1 GPU' "$out/err" && text --estimate --device cpu > "$out/estimate" &&
        ! grep -q 'this GPU' "$out/estimate"
}
listed() { # and where there is none, why
    "$out/gpt2_host" --list-devices 2> "$out/err" | grep -q '^gpu:0  host harness' && [ ! -s "$out/err" ] &&
        HIP_HOST_DEVICES=0 "$out/gpt2_host" --list-devices 2> "$out/err" | grep -qv '^gpu' &&
        [ "$(grep -c '' "$out/err")" = 1 ] && grep -q '^gpt2: GPU: none found' "$out/err"
}

check "greedy text is the CPU's" same -n 10
check "at wave size 64 too" wave64
check "bf16z on the GPU is bf16: the same text" packed
check "an image in bf16z on the GPU too" image
check "with logits on the CPU" same -n 6 --cpu-logits
check "sampled text is the CPU's" same -n 10 --temp 0.8 --top-k 40 -s 3
check "two samples too" same -n 6 -b 2 --temp 0.5 -s 1
check "--device gpu fails when a call fails before the first token" stops 60
check "--device auto does not" does_without 60
check "a GPU that is lost in the text: one line, and the CPU goes on with the same text" goes_on_somewhere 1
check "a call that fails in the text: one line, and the CPU or the next route goes on with the same text" goes_on_somewhere 0
check "no GPU: --device gpu says so" no_gpu
check "--list-devices lists it" listed
head -c 250 tests/fixtures/perplexity.txt > "$out/text"
check "--verify: the GPU passes in every weight type, the CPU beside it" verified
check "--verify=GOOD: a matrix of zeros fails on the GPU, and layer 3 is named" zeroed_layer
check "--verify: a GPU that is lost fails in its row, the CPU is still compared" lost_in_verify
check "--verify --device gpu: it is one line" lost --verify --layers 2 --dtype bf16
check "--profile: operations and overhead make the wall time" profiled
check "--profile: a prompt's calls, sizes and arithmetic are the CPU's" profiled_prompt
check "--profile: a GPU that is lost is one line" lost -n 2 --profile
check "--perplexity and --top --all are the CPU's" scored
check "--perplexity: a GPU that is lost is one line" lost --perplexity
check "--estimate: this GPU is measured, beside this CPU" estimated
check "--logits of the GPU pass for the CPU's" logits_written
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
