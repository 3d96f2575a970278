#!/bin/sh
# Downloads the weights and the tokenizer of OpenAI's GPT-2, with resume and checksums. Nothing appears under its final
# name before it is whole and checked.
set -u

usage() {
    cat <<'END'
Usage: download_gpt2.sh [124M|355M|774M|1558M] [options]
Downloads GPT-2 (124M unless another size is named) so that ./gpt2 finds it.

124M comes as llm.c's starter pack into the directory: gpt2_124M_bf16.bin (249 MB) and gpt2_tokenizer.bin.
The other sizes come as Hugging Face has them, into DIR/gpt2-355M, DIR/gpt2-774M or DIR/gpt2-1558M:
config.json, vocab.json, merges.txt, model.safetensors (1.5, 3.2 or 6.4 GB); run ./gpt2 -m DIR/gpt2-355M.

  --hf            124M as Hugging Face has it instead, into DIR/gpt2-124M (548 MB)
  --f32           also gpt2_124M.bin, the weights of 124M in f32 (498 MB)
  --debug-state   also gpt2_124M.bin and gpt2_124M_debug_state.bin (549 MB), llm.c's reference logits, for make test
  -o, --output DIR   the directory (.)
  -h, --help

A download that was cut off goes on where it stopped when the command is given again.
GPT2_BASE_URL (or HF_ENDPOINT) names another server of the same layout, https://huggingface.co if neither is set.
Exit status: 0 everything is there, 1 something failed, 2 wrong usage.
END
}

say() { printf '%s\n' "$*" >&2; }

die() {
    say "download_gpt2.sh: $*"
    exit 1
}

wrong_usage() {
    say "download_gpt2.sh: $*; --help lists what there is"
    exit 2
}

BASE=${GPT2_BASE_URL:-${HF_ENDPOINT:-https://huggingface.co}}
TRIES=5

# Size and SHA-256 of the files of llm.c's starter pack.
known_files() {
    cat <<'END'
gpt2_124M.bin 497904640 3da8b207584030bcdcd207cf7a99952e3421dce92da218b351071857511bf162
gpt2_124M_bf16.bin 248952832 6661f45628102b4c6e86835d9057b5ba2c024dbf9b81445175e258b7878a1a6f
gpt2_124M_debug_state.bin 549369860 a80c4448eed47c561314a2189e62c49b2c7477c265fc2f15c8470d18401693d9
gpt2_tokenizer.bin 372108 6f3abc21e444e4e8300e225f4e03da48ea121cf17e30f67009b8dad7a66c2f13
END
}

# ----------------------------------------------------------------------------------------------------------------------
# Tools that differ between machines

file_size() { if [ -f "$1" ]; then wc -c <"$1" | tr -d ' '; else echo 0; fi; }

# SHA-256 of a file, nothing when the machine has no tool for it.
file_sum() {
    if command -v sha256sum >/dev/null; then sha256sum <"$1" | cut -d ' ' -f 1
    elif command -v shasum >/dev/null; then shasum -a 256 <"$1" | cut -d ' ' -f 1
    elif command -v openssl >/dev/null; then openssl dgst -sha256 -r <"$1" | cut -d ' ' -f 1
    fi
}

if command -v curl >/dev/null; then TOOL=curl
elif command -v wget >/dev/null; then TOOL=wget
else die "curl or wget is needed; install one of them (apt-get install curl)"
fi

# The headers of a URL and of all that it redirects to.
fetch_headers() {
    if [ "$TOOL" = curl ]; then curl --silent --location --head --max-time 60 "$1"
    else wget --server-response --spider --timeout=60 --tries=1 "$1" 2>&1
    fi
}

# Goes on with the download of URL $1 into $2. Returns 0 done, 1 worth another try, 2 the server has no such file,
# 3 the disk, 4 the server cannot continue in the middle.
fetch_part() {
    if [ "$TOOL" = curl ]; then
        show='--silent --show-error'
        [ -t 2 ] && show='--progress-bar'
        # shellcheck disable=SC2086 # the words of show are separate arguments
        code=$(curl $show --fail --location --connect-timeout 30 --speed-limit 1 --speed-time 60 --continue-at - \
            --write-out '%{http_code}' --output "$2" "$1")
        case $? in
        0) return 0 ;;
        23 | 153) return 3 ;; # write error; killed by SIGXFSZ
        33 | 36) return 4 ;;
        22) case $code in 416) return 4 ;; 408 | 429 | 5??) return 1 ;; *) return 2 ;; esac ;;
        *) return 1 ;;
        esac
    fi
    show=--no-verbose
    [ -t 2 ] && show='--quiet --show-progress'
    # shellcheck disable=SC2086
    wget $show --continue --tries=1 --timeout=60 --output-document="$2" "$1"
    case $? in
    0) return 0 ;;
    3 | 153) return 3 ;;
    8) return 2 ;;
    *) return 1 ;;
    esac
}

# ----------------------------------------------------------------------------------------------------------------------
# One file

# The value of header $1 that looks like $2, with or without quotes.
announced() { printf '%s\n' "$headers" | sed -n "s/^ *$1: *\"\{0,1\}\($2\)\"\{0,1\} *\$/\1/p" | head -n 1; }

# Sets SIZE and SUM (empty: unknown) for file $1 at URL $2: from the list above, or as Hugging Face announces them for
# its large files, whose entity tag is the SHA-256.
expectations() {
    SIZE=$(known_files | awk -v name="$1" '$1 == name { print $2 }')
    SUM=$(known_files | awk -v name="$1" '$1 == name { print $3 }')
    [ -n "$SUM" ] && return
    headers=$(fetch_headers "$2") || die "$2: no answer; run this again to go on where it stopped"
    headers=$(printf '%s\n' "$headers" | tr -d '\r' | tr '[:upper:]' '[:lower:]')
    SUM=$(announced x-linked-etag '[0-9a-f]\{64\}')
    if [ -n "$SUM" ]; then SIZE=$(announced x-linked-size '[0-9]\{1,\}'); fi
}

# Is $1 whole, as far as SIZE and SUM tell? Says on stdout what is wrong.
complaint() {
    size=$(file_size "$1")
    if [ "$size" -eq 0 ]; then echo "it is empty"; return; fi
    if [ -n "$SIZE" ] && [ "$size" -ne "$SIZE" ]; then echo "it has $size bytes instead of $SIZE"; return; fi
    [ -n "$SUM" ] || return
    sum=$(file_sum "$1")
    if [ -z "$sum" ]; then say "  (no sha256sum here, so only the size was checked)"
    elif [ "$sum" != "$SUM" ]; then echo "its SHA-256 is $sum instead of $SUM"
    fi
}

check_space() {
    needed=$(((SIZE - $(file_size "$1")) / 1024))
    free=$(df -Pk "$(dirname "$1")" 2>/dev/null | awk 'NR == 2 { print $4 }')
    if [ -n "$free" ] && [ "$free" -lt "$needed" ]; then
        die "$1: $needed KiB are needed and $free KiB are free; make room and run this again"
    fi
}

# Downloads URL $1 into $2, going on with what an earlier run left; tries again while the connection breaks.
fetch() {
    # what would be no beginning of the file is thrown away: without a size nobody can tell, so that is always
    if [ -z "$SIZE" ] || [ "$(file_size "$2")" -gt "$SIZE" ]; then rm -f "$2"; fi
    [ -n "$SIZE" ] && check_space "$2"
    try=1
    while [ -z "$SIZE" ] || [ "$(file_size "$2")" -lt "$SIZE" ]; do
        before=$(file_size "$2")
        fetch_part "$1" "$2"
        case $? in
        0) return ;;
        2) rm -f "$2"; die "$1: the server does not have it or does not give it" ;;
        3) die "$2: cannot be written; is the disk full? What is there will be used by the next run" ;;
        4) rm -f "$2" ;;
        esac
        # a connection that brought something does not count as a failed try
        if [ "$(file_size "$2")" -le "$before" ]; then try=$((try + 1)); fi
        [ $try -le $TRIES ] || die "$1: no answer after $TRIES tries; run this again to go on where it stopped"
        sleep 1
    done
}

# Makes sure that file $1 of repository path $2 is in directory $3.
get() {
    url=$BASE/$2/resolve/main/$1
    target=$3/$1
    expectations "$1" "$url"
    if [ -e "$target" ]; then
        problem=$(complaint "$target")
        [ -z "$problem" ] || die "$target is there, but $problem; remove it and run this again"
        say "$target: is there already"
        return
    fi
    say "$target${SIZE:+ ($SIZE bytes)}"
    fetch "$url" "$target.part"
    problem=$(complaint "$target.part")
    if [ -n "$problem" ]; then
        rm -f "$target.part"
        die "$url: $problem, so it was thrown away; run this again"
    fi
    mv "$target.part" "$target" || die "$target: cannot be written"
}

# ----------------------------------------------------------------------------------------------------------------------

model='' hf=no f32=no debug_state=no directory=.
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage; exit 0 ;;
    --hf) hf=yes ;;
    --f32) f32=yes ;;
    --debug-state) debug_state=yes f32=yes ;;
    -o | --output)
        [ $# -gt 1 ] || wrong_usage "$1 needs a directory"
        directory=$2
        shift ;;
    124M | 355M | 774M | 1558M)
        [ -z "$model" ] || wrong_usage "one size at a time ($model or $1)"
        model=$1 ;;
    *) wrong_usage "what is \"$1\"?" ;;
    esac
    shift
done
model=${model:-124M}
if [ "$model" != 124M ]; then hf=yes; fi
if [ $hf = yes ] && [ $f32 = yes ]; then wrong_usage "--f32 and --debug-state are for llm.c's 124M"; fi

trap 'say; say "interrupted; run this again to go on"; exit 130' INT TERM

case $model in
124M) repository=openai-community/gpt2 ;;
355M) repository=openai-community/gpt2-medium ;;
774M) repository=openai-community/gpt2-large ;;
1558M) repository=openai-community/gpt2-xl ;;
esac
if [ $hf = yes ]; then
    directory=$directory/gpt2-$model
    mkdir -p "$directory" || die "$directory: cannot be made"
    for file in config.json vocab.json merges.txt model.safetensors; do
        get $file "$repository" "$directory"
    done
    say "Now: ./gpt2 -m $directory"
    say "Or once, so that nothing is converted at later starts: ./gpt2 -m $directory --save $directory/gpt2.bin"
else
    pack=datasets/karpathy/llmc-starter-pack
    mkdir -p "$directory" || die "$directory: cannot be made"
    get gpt2_tokenizer.bin $pack "$directory"
    get gpt2_124M_bf16.bin $pack "$directory"
    if [ $f32 = yes ]; then get gpt2_124M.bin $pack "$directory"; fi
    if [ $debug_state = yes ]; then get gpt2_124M_debug_state.bin $pack "$directory"; fi
    say "Now: ./gpt2 -m $directory/gpt2_124M_bf16.bin"
    say "Or once, for the same text faster: ./gpt2 -m $directory/gpt2_124M_bf16.bin --dtype bf16z --save $directory/gpt2_124M_bf16z.bin"
fi
