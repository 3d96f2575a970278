#!/usr/bin/env python3
"""Times a prompt through transformers' GPT-2 (124M, random weights, eager attention) in torch, in turn with ours.

    python3 dev/bench_torch.py --bench build/bench [--dtype bf16|f32] [--threads N] [--repeats 9] [--json FILE]

A round is each prompt once in torch, then once in build/bench (see dev/bench.c), so that both see the same machine.
Only the last position's logits are asked for, as in dev/bench.c. Medians, in brackets the fastest and the slowest;
--json appends rows as dev/bench.c does, torch's seconds as the peer's. Needs torch and transformers.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

import torch
import transformers

LENGTHS = (64, 512)


def make_model(dtype):
    config = transformers.GPT2Config(attn_implementation="eager", use_cache=False)
    torch.manual_seed(1)
    return transformers.GPT2LMHeadModel(config).to(dtype).eval()


def torch_seconds(model, T):
    tokens = (torch.arange(T) * 7919 % model.config.vocab_size).unsqueeze(0)
    with torch.inference_mode():
        start = time.perf_counter()
        model(tokens, logits_to_keep=1)
        return time.perf_counter() - start


def our_rows(args):
    """One measurement of every length: the rows that build/bench writes."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "rows.json")
        rows = ",".join(f"prefill{T}" for T in LENGTHS)
        command = [args.bench, "--rows", rows, "-r", "1", "-t", str(args.threads), "--dtype", args.dtype]
        subprocess.run(command + ["--json", path], check=True, stdout=subprocess.DEVNULL)
        with open(path) as f:
            return [json.loads(line) for line in f]


def measure(args, model):
    """Rows as build/bench writes them, with all rounds in them."""
    merged = {}
    for T in LENGTHS:
        torch_seconds(model, T)
    for _ in range(args.repeats):
        theirs = {T: torch_seconds(model, T) for T in LENGTHS}
        for row in our_rows(args):
            whole = merged.setdefault(row["tokens"], dict(row, seconds=[], peak=[], peer_seconds=[]))
            whole["seconds"] += row["seconds"]
            whole["peak"] += row["peak"]
            whole["peer_seconds"].append(theirs[row["tokens"]])
            whole["peer_flags"] = f"torch {torch.__version__}, eager"
    return merged.values()


def spread(T, seconds):
    return f"{T / statistics.median(seconds):8.1f} tokens/s [{1e3 * min(seconds):.1f} .. {1e3 * max(seconds):.1f} ms]"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the program made of dev/bench.c")
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", help="file to append to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = make_model({"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype])
    for row in measure(args, model):
        ours, theirs, T = row["seconds"], row["peer_seconds"], row["tokens"]
        ratio = statistics.median(t / o for t, o in zip(theirs, ours))
        print(f"prefill {T} {args.dtype}: {spread(T, ours)}; {row['peer_flags']}: {spread(T, theirs)}; {ratio:.2f} x")
        if args.json:
            with open(args.json, "a") as f:
                f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
