#!/bin/bash
# Tests download_gpt2.sh against a server on the loopback interface: small files stand in for the weights. Needs python3
# for the server and curl or wget. Ends with "N passed, N failed"; the exit status is the verdict.
set -u
cd "$(dirname "$0")" || exit 1
if ! command -v python3 >/dev/null; then
    echo "skip: python3 is needed for the server"
    exit 0
fi

work=$(mktemp -d) || exit 1
server=
trap 'test -n "$server" && kill "$server" 2>/dev/null; rm -rf "$work"' EXIT
passed=0 failed=0

# check CLAIM COMMAND...: judges a claim by the command's exit status.
check() {
    local claim=$1
    shift
    if "$@"; then
        echo "  ok     $claim"
        passed=$((passed + 1))
    else
        echo "  FAILED $claim"
        sed 's/^/         /' "$work/said"
        failed=$((failed + 1))
    fi
}

# The server: files of $work/www with Range, Hugging Face's headers for .safetensors. A path under /cut/ breaks off in
# the middle of every answer but sends at least 40,000 bytes, /broken/ answers nothing but its head, /norange/ ignores
# Range, /moved/ redirects. It ends by itself after ten minutes.
cat >"$work/server.py" <<'END'
import hashlib, http.server, os, re, sys, threading

root = sys.argv[1]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        _, mode, path = self.path.split("/", 2)
        name = os.path.join(root, path)
        with open(os.path.join(root, "requests"), "a") as log:
            log.write(f"{self.command} {self.path} {self.headers.get('Range', '')}\n")
        if not os.path.isfile(name):
            self.send_error(404)
            return
        data = open(name, "rb").read()
        if mode == "moved":
            self.send_response(302)
            self.huggingface(path, data)
            self.send_header("Location", "/plain/" + path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(start.group(1)) if start and mode != "norange" else 0
        if start >= len(data) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.huggingface(path, data)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        rest = data[start:]
        if with_body and mode == "cut" and len(rest) > 40000:
            rest = rest[: max(40000, len(rest) // 2)]
        if with_body and mode != "broken":
            self.wfile.write(rest)
        self.close_connection = True

    def huggingface(self, path, data):
        if path.endswith(".safetensors"):
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("X-Linked-Etag", '"' + hashlib.sha256(data).hexdigest() + '"')

    def log_message(self, *arguments):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Timer(600, lambda: os._exit(1)).start()
print(server.server_port, flush=True)
server.serve_forever()
END

pack=$work/www/datasets/karpathy/llmc-starter-pack/resolve/main
medium=$work/www/openai-community/gpt2-medium/resolve/main
mkdir -p "$pack" "$medium"
head -c 300000 /dev/urandom >"$pack/gpt2_124M_bf16.bin"
head -c 50000 /dev/urandom >"$pack/gpt2_tokenizer.bin"
head -c 600000 /dev/urandom >"$medium/model.safetensors"
for file in config.json vocab.json merges.txt; do echo "the text of $file" >"$medium/$file"; done

# The script under test is the real one, with the sizes and sums of the stand-ins in its table.
script=$work/download_gpt2.sh
cp download_gpt2.sh "$script"
for file in gpt2_124M_bf16.bin gpt2_tokenizer.bin; do
    line="$file $(wc -c <"$pack/$file") $(sha256sum <"$pack/$file" | cut -d ' ' -f 1)"
    sed -i "s/^$file [0-9].*/$line/" "$script"
done

python3 "$work/server.py" "$work/www" >"$work/port" 2>"$work/server.log" &
server=$!
for _ in $(seq 50); do
    test -s "$work/port" && break
    sleep 0.1
done
port=$(cat "$work/port")

# with_tool TOOL: the commands that the script may use from here on, curl or wget among them but not both.
with_tool() {
    tools=$work/tools-$1
    mkdir "$tools"
    for command in "$1" awk cat cut df dirname head mkdir mv rm sed sh sha256sum sleep tr wc; do
        ln -s "$(command -v "$command")" "$tools/$command"
    done
}

# run ARGUMENTS...: runs the script under test; sets status. Its words are in $work/said.
run() {
    PATH=$tools "$(command -v timeout)" 60 sh "$script" "$@" >"$work/said" 2>&1
    status=$?
}

# fetch MODE ARGUMENTS...: runs it against the server.
fetch() {
    export GPT2_BASE_URL=http://127.0.0.1:$port/$1
    shift
    run -o "$work/out" "$@"
}

fresh() {
    rm -rf "$work/out"
    mkdir "$work/out"
    : >"$work/www/requests"
}

requests() { grep -c "^GET .*$1" "$work/www/requests"; }
said() { grep -q -- "$1" "$work/said"; }
same() { cmp -s "$pack/$1" "$work/out/$1"; }
no_parts() { test -z "$(find "$work/out" -name '*.part')"; }
absent() { test ! -e "$work/out/$1"; }

test_usage() {
    run --help
    check "--help explains and succeeds" test "$status" = 0 -a -n "$(grep -- --debug-state "$work/said")"
    for arguments in 125M "--what" "124M 355M" "-o" "355M --f32" "--hf --debug-state"; do
        # shellcheck disable=SC2086 # several arguments
        run $arguments
        check "\"$arguments\" is wrong usage, exit status $status" test "$status" = 2
    done
}

test_llmc() {
    fresh
    fetch plain
    check "124M: exit status $status" test "$status" = 0
    check "the weights are the server's" same gpt2_124M_bf16.bin
    check "the tokenizer is the server's" same gpt2_tokenizer.bin
    check "no .part is left" no_parts
    : >"$work/www/requests"
    fetch plain
    check "run again it downloads nothing ($(requests .) requests)" test "$status" = 0 -a "$(requests .)" = 0

    echo "spoiled" >"$work/out/gpt2_124M_bf16.bin"
    fetch plain
    check "a file that is there but wrong is reported, not overwritten" \
        test "$status" = 1 -a "$(cat "$work/out/gpt2_124M_bf16.bin")" = spoiled
}

test_resume() {
    fresh
    fetch cut
    check "a connection that breaks again and again: exit status $status" test "$status" = 0
    check "its pieces make the file ($(requests bf16) requests)" same gpt2_124M_bf16.bin
    check "the later requests ask for the rest" grep -q 'bf16.bin bytes=[1-9]' "$work/www/requests"

    fresh
    head -c 123456 "$pack/gpt2_124M_bf16.bin" >"$work/out/gpt2_124M_bf16.bin.part"
    fetch plain
    check "an earlier run's .part is continued" grep -q 'bf16.bin bytes=123456-' "$work/www/requests"
    check "and the whole is right" same gpt2_124M_bf16.bin

    fresh
    cp "$pack/gpt2_124M_bf16.bin" "$work/out/gpt2_124M_bf16.bin.part"
    fetch plain
    check "a .part that is whole needs no request" test "$status" = 0 -a "$(requests bf16)" = 0

    fresh
    head -c 400000 /dev/zero >"$work/out/gpt2_124M_bf16.bin.part"
    fetch plain
    check "a .part that is too long is thrown away" same gpt2_124M_bf16.bin

    fresh
    head -c 1000 "$pack/gpt2_124M_bf16.bin" >"$work/out/gpt2_124M_bf16.bin.part"
    fetch norange
    check "a server that cannot continue sends all again" same gpt2_124M_bf16.bin
}

test_failures() {
    fresh
    head -c 1000 /dev/zero >"$work/out/gpt2_124M_bf16.bin.part"
    fetch plain
    check "a wrong checksum is an error" test "$status" = 1
    check "which says so" said "SHA-256"
    check "and leaves nothing" absent gpt2_124M_bf16.bin
    check "not even the .part" no_parts
    fetch plain
    check "so that the next run succeeds" same gpt2_124M_bf16.bin

    fresh
    mv "$script" "$work/altered"
    cp download_gpt2.sh "$script"
    fetch plain
    mv "$work/altered" "$script"
    check "the real table refuses the stand-ins" test "$status" = 1 -a -z "$(find "$work/out" -type f)"

    fresh
    mv "$pack/gpt2_124M_bf16.bin" "$work/kept"
    fetch plain
    check "a file that the server does not have is an error at once" test "$status" = 1 -a "$(requests bf16)" = 1
    check "which names it" said "gpt2_124M_bf16.bin: the server does not have it"
    check "and leaves nothing of it" test -z "$(find "$work/out" -name 'gpt2_124M*')"
    mv "$work/kept" "$pack/gpt2_124M_bf16.bin"

    fresh
    fetch broken
    check "a server that sends nothing is given up on ($(requests tokenizer) requests)" \
        test "$status" = 1 -a "$(requests tokenizer)" = 5
    check "and nothing appears" absent gpt2_tokenizer.bin

    fresh
    (
        ulimit -f 100 # blocks of 512 or 1024 bytes: less than the weights, more than the tokenizer
        fetch plain
        exit "$status"
    )
    status=$?
    check "a full disk is an error" test "$status" = 1
    check "which says so" said "disk full"
    check "and nothing appears under the final name" absent gpt2_124M_bf16.bin
}

test_huggingface() {
    fresh
    fetch moved 355M
    check "355M from Hugging Face, redirected: exit status $status" test "$status" = 0
    for file in config.json vocab.json merges.txt model.safetensors; do
        check "$file is the server's" cmp -s "$medium/$file" "$work/out/gpt2-355M/$file"
    done
    check "it tells how to use it" said "-m $work/out/gpt2-355M"
    : >"$work/www/requests"
    fetch moved 355M
    check "run again it downloads nothing" test "$status" = 0 -a "$(requests .)" = 0
    rm "$work/out/gpt2-355M/model.safetensors"
    head -c 5000 /dev/zero >"$work/out/gpt2-355M/model.safetensors.part"
    fetch moved 355M
    check "the checksum that the server announces is compared" \
        test "$status" = 1 -a ! -e "$work/out/gpt2-355M/model.safetensors"
    fetch cut 355M
    check "and after a broken connection it is right" \
        cmp -s "$medium/model.safetensors" "$work/out/gpt2-355M/model.safetensors"
}

for tool in curl wget; do
    if ! command -v $tool >/dev/null; then
        echo "skip: $tool is not here"
        continue
    fi
    echo "download_gpt2.sh with $tool"
    with_tool $tool
    test_usage
    test_llmc
    test_resume
    test_failures
    test_huggingface
done

kill "$server"
wait "$server" 2>/dev/null
server=
fresh
fetch plain 355M
check "no server at all is an error" test "$status" = 1
check "which says so" said "no answer"

echo
echo "$passed passed, $failed failed"
test "$failed" = 0
