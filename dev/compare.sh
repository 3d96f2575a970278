#!/bin/sh
# Our generator beside llama.cpp and torch on this machine, in the same run, in turn. Ends with a markdown table.
set -eu

usage() {
    cat <<'END'
Usage: compare.sh DIRECTORY TOKENIZER_DIRECTORY [options]
Measures GPT-2 124M, random weights, on this machine: ours, llama.cpp's and torch's. Debian's llama.cpp is installed
in a chroot under DIRECTORY (needs root, debootstrap and some 1.5 GB), with GGUF files made by dev/make_gguf.py (PyPI's
gguf in a virtual environment there). TOKENIZER_DIRECTORY holds GPT-2's vocab.json, merges.txt, gpt2_tokenizer.bin.
DIRECTORY/compare.md is the table, DIRECTORY/rows.json the measurements behind it.

  --mirror URL       Debian mirror; default: the first of this machine's apt configuration
  --llama-bench PATH, --llama-completion PATH   llama.cpp's programs, when it is installed already: no chroot is made
  --python PYTHON    a Python with torch, transformers and tiktoken, for the prefill and tokenizer rows;
                     default: those rows without them
  --corpus FILE      English text, for the tokenizer row; default: no such row
  --repeats N        (9)
  --types "..."      weight types (bf16 bf16z q8 f32)
  --threads N        default: physical cores
  -h, --help
END
}

die() {
    printf 'compare.sh: %s\n' "$*" >&2
    exit 1
}

repository=$(cd "$(dirname "$0")/.." && pwd)
mirror='' llama_bench='' llama_completion='' python='' corpus='' repeats=9 types='bf16 bf16z q8 f32' threads=$(nproc)
positional=0
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage; exit 0 ;;
    --mirror | --llama-bench | --llama-completion | --python | --corpus | --repeats | --types | --threads)
        [ $# -gt 1 ] || die "$1 needs a value"
        case $1 in
        --mirror) mirror=$2 ;;
        --llama-bench) llama_bench=$2 ;;
        --llama-completion) llama_completion=$2 ;;
        --python) python=$2 ;;
        --corpus) corpus=$2 ;;
        --repeats) repeats=$2 ;;
        --types) types=$2 ;;
        --threads) threads=$2 ;;
        esac
        shift ;;
    -*) die "what is $1? --help lists the options" ;;
    *)
        positional=$((positional + 1))
        case $positional in
        1) directory=$1 ;;
        2) tokenizer=$1 ;;
        *) die "what is $1? --help lists the options" ;;
        esac ;;
    esac
    shift
done
[ $positional -eq 2 ] || { usage >&2; exit 2; }
mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
root=$directory/sid gguf=$directory/sid/gguf inside=/gguf

# ----------------------------------------------------------------------------------------------------------------------
# llama.cpp

# The first mirror that apt knows for the archive itself, in either form of its configuration.
apt_mirror() {
    cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n 's/^URIs: *\([^ ]*\).*/\1/p' | head -n 1
    sed -n 's/^deb  *\(\[[^]]*\]  *\)\{0,1\}\([^ ]*\) .*/\2/p' /etc/apt/sources.list 2>/dev/null | head -n 1
}

# The archive's snapshot may be older than its own expiry date says; signatures are checked all the same.
chroot_apt() {
    DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -qq -o Acquire::Check-Valid-Until=false "$@"
}

# A program of the chroot as one of this machine.
wrap() {
    printf '#!/bin/sh\nexec chroot "%s" %s "$@"\n' "$root" "$1" >"$directory/$1"
    chmod +x "$directory/$1"
}

install_llama() {
    [ "$(id -u)" = 0 ] || die "a chroot needs root; or give --llama-bench and --llama-completion"
    command -v debootstrap >/dev/null || die "debootstrap is needed (apt-get install debootstrap)"
    if [ ! -e "$root/etc/debian_version" ]; then
        mirror=${mirror:-$(apt_mirror | head -n 1)}
        [ -n "$mirror" ] || die "apt's configuration names no mirror; give --mirror"
        debootstrap --variant=minbase --include=ca-certificates sid "$root" "$mirror" >"$directory/debootstrap.log"
    fi
    if [ ! -x "$root/usr/bin/llama-bench" ]; then
        chroot_apt update
        chroot_apt install -y --no-install-recommends llama.cpp >"$directory/apt.log"
    fi
    wrap llama-bench
    wrap llama-completion
    llama_bench=$directory/llama-bench llama_completion=$directory/llama-completion
}

if [ -z "$llama_bench" ] || [ -z "$llama_completion" ]; then
    install_llama
else
    gguf=$directory/gguf inside=$directory/gguf
fi

# Our name of a weight type, to llama.cpp's: bf16z has the numbers of bf16.
gguf_type() {
    case $1 in
    q8) echo q8_0 ;;
    bf16z) echo bf16 ;;
    *) echo "$1" ;;
    esac
}

mkdir -p "$gguf"
for type in $types; do
    name=$(gguf_type "$type")
    [ -e "$gguf/gpt2-$name.gguf" ] && continue
    if [ ! -x "$directory/venv/bin/python" ]; then
        python3 -m venv "$directory/venv"
        "$directory/venv/bin/pip" install --quiet gguf
    fi
    "$directory/venv/bin/python" "$repository/dev/make_gguf.py" "$tokenizer" "$gguf" "$name"
done

# ----------------------------------------------------------------------------------------------------------------------
# the measurements

make -C "$repository" BUILD="$directory/build" GPT2="$directory/build/gpt2" "$directory/build/gpt2" \
    "$directory/build/bench" >"$directory/make.log"
rows=$directory/rows.json
rm -f "$rows"
for type in $types; do
    model=$inside/gpt2-$(gguf_type "$type").gguf
    command="$llama_completion -m $model -p Hello -n 20 -t $threads --temp 0 --ignore-eos -no-cnv --no-warmup"
    "$directory/build/bench" -t "$threads" -r "$repeats" --dtype "$type" --json "$rows" \
        --rows decode20,decode128,depth512,depth900,prefill64,prefill512,process \
        --program "$directory/build/gpt2" --peer "$llama_bench" --peer-model "$model" --peer-process "$command"
done
for type in $types; do
    case $type in bf16 | f32) ;; *) continue ;; esac
    [ -n "$python" ] || continue
    "$python" "$repository/dev/bench_torch.py" --bench "$directory/build/bench" --dtype "$type" --threads "$threads" \
        --repeats "$repeats" --json "$rows"
done
"$directory/build/bench" -t "$threads" -r "$repeats" --json "$rows" --rows threads
if [ -n "$corpus" ] && [ -n "$python" ]; then
    "$python" "$repository/dev/bench_tiktoken.py" --bench "$directory/build/bench" --repeats "$repeats" \
        --tokenizer "$tokenizer/gpt2_tokenizer.bin" --corpus "$corpus" --json "$rows"
elif [ -n "$corpus" ]; then
    "$directory/build/bench" -r "$repeats" --json "$rows" --rows tokenizer --corpus "$corpus" \
        --tokenizer "$tokenizer/gpt2_tokenizer.bin"
fi

# ----------------------------------------------------------------------------------------------------------------------
# the table

{
    echo "GPT-2 124M, random weights, $threads threads; medians of $repeats [slowest .. fastest], rates in tokens/s;"
    echo "llama-bench's flags are the best of its -fa and -ctk/-ctv for each row. $(date -u +%Y-%m-%d)"
    echo
    echo "- machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors"
    echo "- ours: $(git -C "$repository" describe --always --dirty), $("$directory/build/gpt2" --version | head -n 1)"
    echo "- llama.cpp: $("$llama_completion" --version 2>&1 | sed -n 's/^version: //p')"
    [ -z "$python" ] || "$python" -c 'import tiktoken, torch, transformers
print("- torch", torch.__version__ + ", transformers", transformers.__version__ + ", tiktoken", tiktoken.__version__)'
    echo
    python3 "$repository/dev/bench_table.py" "$rows"
} >"$directory/compare.md.tmp"
mv "$directory/compare.md.tmp" "$directory/compare.md"
cat "$directory/compare.md"
