#!/usr/bin/env python3
"""Times tiktoken on a text, one thread, in turn with ours.

    python3 dev/bench_tiktoken.py --bench build/bench --tokenizer gpt2_tokenizer.bin --corpus FILE
                                  [--repeats 9] [--json FILE]

tiktoken gets GPT-2's pattern and the same tokens, so that both give the same ids. Medians; --json appends a row as
dev/bench.c does, tiktoken's seconds as the peer's. Needs tiktoken.
"""
import argparse
import json
import os
import statistics
import struct
import subprocess
import tempfile
import time

import tiktoken

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
END = b"<|endoftext|>"


def read_tokens(path):
    """Tokens of llm.c's tokenizer .bin, in the order of their ids."""
    with open(path, "rb") as f:
        data = f.read()
    (count,), at, tokens = struct.unpack_from("<i", data, 8), 1024, []
    for _ in range(count):
        length = data[at]
        tokens.append(data[at + 1:at + 1 + length])
        at += 1 + length
    return tokens


def make_tiktoken(path):
    ids = {token: i for i, token in enumerate(read_tokens(path))}
    end = ids.pop(END)
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ids, special_tokens={END.decode(): end})


def our_row(args):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "rows.json")
        command = [args.bench, "--rows", "tokenizer", "-r", "1", "--tokenizer", args.tokenizer, "--corpus", args.corpus]
        subprocess.run(command + ["--json", path], check=True, stdout=subprocess.DEVNULL)
        with open(path) as f:
            return json.load(f)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the program made of dev/bench.c")
    parser.add_argument("--tokenizer", required=True, help="GPT-2's tokenizer .bin")
    parser.add_argument("--corpus", required=True, help="UTF-8 text")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", help="file to append to")
    args = parser.parse_args()
    encoding = make_tiktoken(args.tokenizer)
    with open(args.corpus, encoding="utf-8") as f:
        text = f.read()
    ours, theirs = [], []
    for _ in range(args.repeats):
        start = time.perf_counter()
        tokens = encoding.encode(text, allowed_special="all")
        theirs.append(time.perf_counter() - start)
        row = our_row(args)
        ours += row["seconds"]
    if f" {len(tokens)} tokens" not in row["note"]:
        parser.exit(1, f"tiktoken finds {len(tokens)} tokens, ours differs: {row['note']}\n")
    row.update(seconds=ours, peer_seconds=theirs, peer_flags=f"tiktoken {tiktoken.__version__}")
    rates = [row["rate_of"] / statistics.median(seconds) for seconds in (ours, theirs)]
    print(f"tokenizer: {rates[0]:.1f} MB/s, {row['peer_flags']}: {rates[1]:.1f} MB/s; {rates[0] / rates[1]:.2f} x")
    if args.json:
        with open(args.json, "a") as f:
            f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
