#!/bin/sh
# dev/hip_targets.sh HIPCC [TARGET...]: prints the flags that make hipcc build for these targets. Without a target: for
# the GPUs of this machine, or where there are none for every target of the list that this hipcc takes.
#
# A compiler may know a chip that its device library does not, such as Debian's hipcc 5.2.3 gfx1100: for a target that is
# asked for by name dev/hip_device_library.sh then adds what is missing. What was found is kept in a file of the user's
# temporary directory, for asking the compiler takes some seconds.
set -eu
hipcc=$1
shift
here=$(dirname "$0")

# Built for where there is no GPU, some 20 s each, so not every chip. What this machine has, or the caller names, need
# not be here: the kernels compile for gfx900, gfx90c, gfx1031, gfx1032, gfx1034, gfx1035, gfx1036 and gfx1152 as well.
known="gfx906 gfx908 gfx90a gfx942 gfx950 gfx1010 gfx1030 gfx1100 gfx1101 gfx1102 gfx1103 gfx1150 gfx1151 gfx1200 gfx1201"

scratch=$(mktemp -d) # clang 15 leaves two empty directories behind for each target
trap 'rm -rf "$scratch"' EXIT

takes() { # does hipcc build for this target, with these flags?
    target=$1
    shift
    TMPDIR=$scratch "$hipcc" "$@" "--offload-arch=$target" --cuda-device-only -c "$here/hip_probe.hip" -o /dev/null 2> /dev/null
}

this_machine() {
    tools=$(dirname "$hipcc")
    for tool in amdgpu-arch "$tools/amdgpu-arch" "$tools/../llvm/bin/amdgpu-arch" "$tools/rocm_agent_enumerator" rocm_agent_enumerator; do
        found=$("$tool" 2> /dev/null | grep '^gfx[1-9]' | sort -u || true)
        [ -z "$found" ] || break
    done
    echo "$found"
}

all_taken() {
    for target in $known; do
        if takes "$target"; then echo "$target"; fi
    done
}

if [ $# -eq 0 ]; then
    cache="${TMPDIR:-/tmp}/gpt2-hip-targets-$(id -u)"
    machine=$(this_machine)
    stamp="$hipcc $("$hipcc" --version 2> /dev/null | cksum) $(echo "$machine" | tr '\n' ' ')"
    if [ ! -O "$cache" ] || [ "$(sed -n 1p "$cache")" != "$stamp" ]; then
        targets=$machine
        [ -n "$targets" ] || targets=$(all_taken)
        { echo "$stamp"; echo "$targets"; } > "$cache.$$" && mv "$cache.$$" "$cache"
    fi
    # shellcheck disable=SC2046 # one argument for each target
    set -- $(sed 1d "$cache")
fi
flags=
for target; do
    flags="$flags --offload-arch=$target"
    if ! takes "$target"; then
        library=$("$here/hip_device_library.sh" "$hipcc" "${target#gfx}")
        flags="$flags --rocm-device-lib-path=$library"
    fi
done
echo "$flags"
