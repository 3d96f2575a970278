#!/usr/bin/env python3
"""Draws the time of a token against the depth of the context, and the ladder from naive to final.

    python3 scripts/plot_bench.py [dev/cpu_bench.json] [dev]

Reads what `bench --rows depths --json FILE` (dev/bench.c) and `ladder --json FILE` (dev/ladder.c) wrote and writes
cpu_depth.svg and cpu_ladder.svg into the directory. Needs matplotlib.
"""
import json
import os
import statistics
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

COLORS = {"f32": "tab:gray", "bf16": "tab:blue", "bf16z": "tab:cyan", "f16": "tab:green", "q8": "tab:orange"}


def save(figure, path):
    figure.tight_layout()
    figure.savefig(path + ".tmp", format="svg", metadata={"Date": None})
    os.rename(path + ".tmp", path)


def plot_depth(rows, path):
    """Filled points: ours. Hollow: llama.cpp in turn with ours, if it was. Dotted: bytes of weights and KV cache over
    the bandwidth that was measured beside ours."""
    figure, axes = plt.subplots(figsize=(7, 4))
    milliseconds = lambda key, rs: [1e3 * statistics.median(r[key]) for r in rs]
    depths = lambda rs: [r["depth"] for r in rs]
    for dtype, color in COLORS.items():
        mine = sorted((r for r in rows if r["dtype"] == dtype), key=lambda r: r["depth"])
        ours = [r for r in mine if r["tokens"] == 8]
        peers = [r for r in ours if r["peer_seconds"]]
        if ours:
            limits = [1e3 * r["bytes"] / statistics.median(r["bandwidth"]) for r in ours]
            axes.plot(depths(ours), milliseconds("seconds", ours), "o-", color=color, markersize=4, label=dtype)
            axes.plot(depths(ours), limits, ":", color=color, linewidth=1)
        if peers:
            axes.plot(depths(peers), milliseconds("peer_seconds", peers), "s--", color=color, markersize=5,
                      markerfacecolor="none", linewidth=1, label=f"{dtype}, llama.cpp")
    axes.plot([], [], "k:", linewidth=1, label="bytes / bandwidth")
    axes.set_xlabel("tokens in the context")
    axes.set_ylabel("milliseconds per token")
    axes.set_ylim(bottom=0)
    axes.legend(ncol=4, frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1))
    save(figure, path)


def plot_ladder(rows, path):
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8))
    titles = {"decode": "one token's matrix products, GB/s", "prefill": "512 rows, 768 to 3072, Gop/s"}
    for axes, (ladder, title) in zip(panels, titles.items()):
        steps = sorted((r for r in rows if r["ladder"] == ladder), key=lambda r: -r["step"])
        names = [f"{r['step']} {r['name']}" for r in steps]
        rates = [1e-9 * r["rate"] for r in steps]
        limits = [1e-9 * r["limit"] for r in steps]
        axes.barh(names, rates, color="tab:blue")
        axes.plot(limits, range(len(steps)), "k|", markersize=14, label="limit measured beside it")
        for y, (row, rate) in enumerate(zip(steps, rates)):
            milliseconds = 1e3 * statistics.median(row["seconds"])
            axes.annotate(f" {milliseconds:.1f} ms", (rate, y), va="center", fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.margins(x=0.12)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    save(figure, path)


def main():
    source = sys.argv[1] if len(sys.argv) > 1 else "dev/cpu_bench.json"
    target = sys.argv[2] if len(sys.argv) > 2 else "dev"
    with open(source) as f:
        rows = [json.loads(line) for line in f]
    plt.rcParams["svg.hashsalt"] = "gpt2"
    plot_depth([r for r in rows if r.get("row", "").startswith("decode")], os.path.join(target, "cpu_depth.svg"))
    plot_ladder([r for r in rows if "ladder" in r], os.path.join(target, "cpu_ladder.svg"))


if __name__ == "__main__":
    main()
