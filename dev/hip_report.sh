#!/bin/sh
# dev/hip_report.sh HIPCC FLAGS [TARGET...]: what the compiler made of each kernel for each target: vector and scalar
# registers, shared memory, scratch (bytes that are reserved, and instructions that touch them), spills of vector registers, scalar registers that are kept in lanes of vector ones (which
# costs an instruction each, but no memory), waves that fit on a SIMD, and in its code: instructions, matrix instructions,
# barriers and 16-byte loads from global memory (each counted once, however often it runs). Fails when a kernel spills or
# touches scratch, when a matrix product or attention has no 16-byte load, or when on a chip with matrix instructions a kernel
# made for them has none (or another family's).
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
printf '%-8s %-38s %5s %5s %5s %7s %7s %7s %6s %5s %5s %7s %7s %8s %9s\n' target kernel VGPR AGPR SGPR shared scratch touched spills moved waves \
    code matrix barriers 16B-loads
for target in $targets; do
    case $target in # what multiplies matrices there
    gfx11* | gfx120*) matrix=v_wmma_ ;;
    gfx908 | gfx90a | gfx94* | gfx950) matrix=v_mfma_ ;;
    *) matrix=none ;;
    esac
    # shellcheck disable=SC2046,SC2086 # flags are words
    TMPDIR=$out "$hipcc" $flags $("$here/hip_targets.sh" "$hipcc" "$target") --cuda-device-only -Wno-unused-command-line-argument -S gpt2_kernels.hip -o "$out/code.s" \
        -Rpass-analysis=kernel-resource-usage 2> "$out/remarks" || { cat "$out/remarks" >&2; exit 1; }
    c++filt < "$out/code.s" > "$out/code"
    c++filt < "$out/remarks" > "$out/named"
    awk -v target="$target" -v matrix="$matrix" '
        FILENAME ~ /code$/ {
            if ($0 ~ /^[a-z].*:/ && $0 !~ /^\./) { kernel = short($0) }
            if ($0 !~ /^\t[a-z]/) next
            code[kernel]++
            if ($1 ~ /^(global|flat)_load_(dwordx4|b128)$/) loads[kernel]++
            if ($1 ~ /^(scratch|buffer)_(load|store)/) touched[kernel]++ # nothing else here goes through buffers
            if ($1 ~ /^v_(wmma|mfma)_/) products[kernel]++
            if ($1 ~ /^v_(wmma|mfma)_/ && index($1, matrix) != 1) foreign[kernel]++
            if ($1 ~ /^s_barrier(_wait)?$/) barriers[kernel]++
            next
        }
        { sub(/ \[-Rpass.*/, "") }
        /Function Name: / { sub(/.*Function Name: /, ""); name = short($0); order[++n] = name }
        /remark: +(Total)?SGPRs: / { sgpr[name] = $NF }
        /remark: +VGPRs: / { vgpr[name] = $NF }
        /remark: +AGPRs: / { agpr[name] = $NF }
        /ScratchSize/ { scratch[name] = $NF }
        /Occupancy/ { waves[name] = $NF }
        /VGPRs Spill/ { spills[name] = $NF }
        /SGPRs Spill/ { moved[name] = $NF }
        /LDS Size/ { shared[name] = $NF }
        function short(text) { # "void decode_matmul<1, 8>(Output, ..." and "layernorm:" by their names alone
            sub(/^void /, "", text); sub(/[(:].*/, "", text); gsub(/NativeShape, /, "", text); return text
        }
        END {
            for (i = 1; i <= n; i++) {
                name = order[i]
                is_matrix = name ~ /^matrix_/
                if (is_matrix && matrix == "none") continue # empty there, and never launched
                wrong = ""
                if (spills[name] > 0 || touched[name] > 0) wrong = "spills"
                if (name ~ /matmul|^matrix_/ && loads[name] == 0) wrong = "no 16-byte load"
                if (is_matrix && products[name] == 0) wrong = "no matrix instruction"
                if (foreign[name] > 0) wrong = "a matrix instruction of another family"
                bad += wrong != ""; seen += is_matrix
                printf "%-8s %-38s %5d %5d %5d %7d %7d %7d %6d %5d %5d %7d %7d %8d %9d%s\n", target, name, vgpr[name], agpr[name],
                    sgpr[name], shared[name], scratch[name], touched[name], spills[name], moved[name], waves[name], code[name], products[name],
                    barriers[name], loads[name], wrong == "" ? "" : "  <-- " wrong
            }
            if (matrix != "none" && seen == 0) { print target ": no kernel with matrix instructions"; bad++ }
            exit bad > 0 || n == 0
        }' "$out/code" "$out/named" || status=1
done
exit $status
