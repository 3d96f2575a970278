#!/bin/sh
# dev/hip_report.sh HIPCC FLAGS [TARGET...]: what the compiler made of each kernel for each target: vector and scalar
# registers, shared memory, scratch, spills, waves that fit on a SIMD, and 16-byte loads from global memory. Fails when
# a kernel spills or needs scratch, or a matrix kernel has no 16-byte load.
set -eu
hipcc=$1
flags=$2
shift 2
here=$(dirname "$0")
if [ -z "$hipcc" ]; then
    echo "hip_report.sh: no hipcc in PATH or /opt/rocm/bin" >&2
    exit 1
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

targets=$*
[ -n "$targets" ] || targets=$("$here/hip_targets.sh" "$hipcc" | tr ' ' '\n' | sed -n 's/--offload-arch=//p')
status=0
printf '%-8s %-28s %5s %5s %5s %7s %7s %6s %5s %8s\n' target kernel VGPR AGPR SGPR shared scratch spills waves 16B-loads
for target in $targets; do
    # shellcheck disable=SC2046,SC2086 # flags are words
    "$hipcc" $flags $("$here/hip_targets.sh" "$hipcc" "$target") --cuda-device-only -Wno-unused-command-line-argument -S gpt2_kernels.hip -o "$out/code.s" \
        -Rpass-analysis=kernel-resource-usage 2> "$out/remarks" || { cat "$out/remarks" >&2; exit 1; }
    c++filt < "$out/code.s" > "$out/code"
    c++filt < "$out/remarks" > "$out/named"
    awk -v target="$target" '
        FILENAME ~ /code$/ {
            if ($0 ~ /^[a-z].*:/ && $0 !~ /^\./) { kernel = short($0) }
            if ($1 ~ /^(global|flat)_load_(dwordx4|b128)$/) loads[kernel]++
            next
        }
        { sub(/ \[-Rpass.*/, "") }
        /Function Name: / { sub(/.*Function Name: /, ""); name = short($0); order[++n] = name }
        /remark: +SGPRs: / { sgpr[name] = $NF }
        /remark: +VGPRs: / { vgpr[name] = $NF }
        /remark: +AGPRs: / { agpr[name] = $NF }
        /ScratchSize/ { scratch[name] = $NF }
        /Occupancy/ { waves[name] = $NF }
        /GPRs Spill/ { spills[name] += $NF }
        /LDS Size/ { shared[name] = $NF }
        function short(text) { # "void decode_matmul<1, 8>(Output, ..." and "layernorm:" by their names alone
            sub(/^void /, "", text); sub(/[(:].*/, "", text); return text
        }
        END {
            for (i = 1; i <= n; i++) {
                name = order[i]
                wrong = spills[name] > 0 || scratch[name] > 0 || (name ~ /matmul/ && loads[name] == 0)
                bad += wrong
                printf "%-8s %-28s %5d %5d %5d %7d %7d %6d %5d %8d%s\n", target, name, vgpr[name], agpr[name], sgpr[name],
                    shared[name], scratch[name], spills[name], waves[name], loads[name], wrong ? "  <-- unfit" : ""
            }
            exit bad > 0 || n == 0
        }' "$out/code" "$out/named" || status=1
done
exit $status
