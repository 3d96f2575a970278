#!/usr/bin/env python3
"""Draws the loss curve that scripts/train_model.py logged.

    python3 scripts/plot_training.py [dev/training/loss.csv] [dev/training/loss.svg]

Needs matplotlib.
"""
import csv
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt


def main():
    source = sys.argv[1] if len(sys.argv) > 1 else "dev/training/loss.csv"
    target = sys.argv[2] if len(sys.argv) > 2 else "dev/training/loss.svg"
    with open(source, newline="") as f:
        rows = list(csv.DictReader(f))
    judged = [r for r in rows if r["held_out_bits_per_byte"]]
    millions = lambda rs: [int(r["tokens"]) / 1e6 for r in rs]
    plt.rcParams["svg.hashsalt"] = "gpt2"
    figure, left = plt.subplots(figsize=(7, 3.6))
    left.plot(millions(rows), [float(r["train_nats_per_token"]) for r in rows], color="tab:gray", linewidth=1)
    left.set_xlabel("training tokens, millions")
    left.set_ylabel("training loss, nats per token", color="tab:gray")
    right = left.twinx()
    bits = [float(r["held_out_bits_per_byte"]) for r in judged]
    right.plot(millions(judged), bits, color="tab:blue", marker="o", markersize=3)
    right.set_ylabel("held-out book, bits per byte", color="tab:blue")
    right.annotate(f"{bits[-1]:.3f}", (millions(judged)[-1], bits[-1]), textcoords="offset points", xytext=(-4, 6), ha="right", color="tab:blue")
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
