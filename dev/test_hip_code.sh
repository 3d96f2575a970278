#!/bin/sh
# dev/test_hip_code.sh HIPCC FLAGS TESTER OUT [TARGET...]: the GPU tests on the machine code that the compiler makes for each
# target, instruction by instruction on a model of the chip (dev/hip_host/amd_code.h), two targets at a time. Without a
# target: for all that this compiler takes. Last come faults in the code of the first target, each of which has to be seen.
set -eu
hipcc=$1
flags=$2
tester=$3
out=$4
shift 4
here=$(dirname "$0")
targets=$*
[ -n "$targets" ] || targets=$("$here/hip_targets.sh" "$hipcc" | tr ' ' '\n' | sed -n 's/--offload-arch=//p')
first=${targets%% *}
mkdir -p "$out"

# one TARGET: its log ends with the verdict, its exit status is in TARGET.rc
one() {
    status=0
    { "$here/hip_code.sh" "$hipcc" "$flags" tests/test_hip.cc "$out" "$1" && HIP_HOST_CODE="$out/$1" "$tester" hip; } \
        > "$out/$1.log" 2>&1 || status=$?
    echo $status > "$out/$1.rc"
}

# The disassembly with the first line of kernel KERNEL that matches PATTERN put through sed's COMMAND.
altered() {
    awk -v kernel="<$1>:" -v pattern="$2" -v command="$3" '
        $2 == kernel { inside = 1 }
        inside && $0 ~ pattern { inside = 0; if (command == "drop") next; sub(command, "v_add_f32") }
        { print }' "$out/$first.txt"
}

# fault NAME PATTERN COMMAND [MESSAGE]: does the tester fail (and say MESSAGE) when layernorm has this fault?
fault() {
    mkdir -p "$out/fault_$1"
    cp "$out/$first.co" "$out/fault_$1/"
    altered layernorm "$2" "$3" > "$out/fault_$1/$first.txt"
    if cmp -s "$out/$first.txt" "$out/fault_$1/$first.txt"; then
        echo "nothing altered" > "$out/fault_$1.log"
        return 1
    fi
    ! HIP_HOST_CODE="$out/fault_$1/$first" "$tester" hip > "$out/fault_$1.log" 2>&1 && grep -q "${4:-FAILED layernorm}" "$out/fault_$1.log"
}

passed=0 failed=0
verdict() { # verdict STATUS TEXT
    if [ "$1" = 0 ]; then
        passed=$((passed + 1))
        echo "  ok     $2"
    else
        failed=$((failed + 1))
        echo "  FAILED $2"
    fi
}

running=0
for target in $targets; do
    one "$target" &
    running=$((running + 1))
    if [ $((running % 2)) = 0 ]; then wait; fi
done
wait
for target in $targets; do
    status=$(cat "$out/$target.rc")
    [ "$status" = 0 ] || grep -vE '^  ok' "$out/$target.log" | tail -n 20
    verdict "$status" "$target: $(grep -E 'passed, [0-9]+ failed' "$out/$target.log" | tail -n 1) on its machine code"
done
if [ $failed = 0 ]; then
    fault wait '\ts_wait(cnt lgkmcnt|_kmcnt)' drop 'a register that a load has not filled yet' && seen=0 || seen=1
    verdict "$seen" "$first: a wait that is left out is seen"
    fault barrier '\ts_barrier(_wait)?( |$)' drop && seen=0 || seen=1
    verdict "$seen" "$first: a barrier that is left out is seen"
    fault operation '\tv_sub(rev)?_f32' 'v_sub(rev)?_f32' && seen=0 || seen=1
    verdict "$seen" "$first: an addition instead of a subtraction is seen"
fi
echo
echo "$passed passed, $failed failed"
[ $failed = 0 ]
