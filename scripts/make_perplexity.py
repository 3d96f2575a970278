#!/usr/bin/env python3
"""Reference perplexities by Hugging Face transformers, for `make test`.

    python3 scripts/make_perplexity.py [--bundled models/fairytales.bin] [--program ./gpt2] [--out tests/fixtures]

Scores tests/fixtures/perplexity.txt with transformers' GPT2LMHeadModel in float32, whole and in strided windows, and writes
perplexity_reference.txt: a line for each case with context, stride, tokens judged, mean negative log likelihood with every
judged token counted once, and the perplexity that transformers' guide (docs: "Perplexity of fixed-length models") arrives at
by adding up the means of the windows, each weighted with one token less than it judges. Token ids are gpt2 --tokens'.
Needs torch and transformers.
"""
import argparse
import math
import os
import subprocess

import torch

from make_reference import read_checkpoint, replace_file

CASES = [(512, 256), (64, 32), (64, 64), (48, 7), (100, 90)]  # context, stride


def score(model, ids, context, stride):
    """(judged, mean nll, the guide's perplexity): the guide's loop, with its labels and its weights."""
    nll = guide_nll = 0.0
    judged = guide_tokens = previous_end = 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + context, ids.shape[1])
        window = ids[:, begin:end]
        labels = window.clone()
        labels[:, : -(end - previous_end)] = -100
        with torch.no_grad():
            loss = model(window, labels=labels).loss.item()
        count = int((labels[:, 1:] != -100).sum())  # what the loss is the mean of
        weight = int((labels != -100).sum()) - 1
        nll += loss * count if count else 0.0
        judged += count
        guide_nll += loss * weight if weight else 0.0
        guide_tokens += weight
        previous_end = end
        if end == ids.shape[1]:
            break
    return judged, nll / judged, math.exp(guide_nll / guide_tokens)


def main():
    p = argparse.ArgumentParser(description="reference perplexities by Hugging Face transformers for make test")
    p.add_argument("--bundled", default="models/fairytales.bin")
    p.add_argument("--program", default="./gpt2")
    p.add_argument("--out", default="tests/fixtures")
    a = p.parse_args()
    text = os.path.join(a.out, "perplexity.txt")
    tokens = subprocess.run([a.program, "-m", a.bundled, "-f", text, "--tokens"], capture_output=True, check=True, text=True).stdout
    ids = torch.tensor([[int(t) for t in tokens.split()]])
    model = read_checkpoint(a.bundled)
    lines = ["# context stride judged mean_nll guide_perplexity; made by scripts/make_perplexity.py\n"]
    for context, stride in CASES:
        judged, mean, guide = score(model, ids, context, stride)
        lines.append(f"{context} {stride} {judged} {mean:.8f} {guide:.6f}\n")
        print(f"{ids.shape[1]} tokens, context {context}, stride {stride}: mean nll {mean:.6f}, perplexity {math.exp(mean):.4f}, guide {guide:.4f}")
    replace_file(os.path.join(a.out, "perplexity_reference.txt"), "".join(lines).encode())


if __name__ == "__main__":
    main()
