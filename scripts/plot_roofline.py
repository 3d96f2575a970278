#!/usr/bin/env python3
"""Draws the roofline of a profile: the rate of every operation against its arithmetic intensity, under the machine's roof.

    ./gpt2 --profile=json -f prompt.txt > profile.json
    python3 scripts/plot_roofline.py profile.json roofline.svg

Reads what --profile=json and --estimate --json print. Needs matplotlib.
"""
import json
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

SHAPES = {"embedding": "D", "qkv": "^", "attention": "o", "attproj": "v", "fc": "s", "fcproj": "P", "head": "*"}


def draw_roof(axes, machine, low, high):
    bandwidth, products, f32 = (machine[k] for k in ("gb_per_second", "products_gflop_per_second", "f32_gflop_per_second"))
    over = f", reading {1e-6 * machine['working_set']:.0f} MB" if "working_set" in machine else ""
    corner = products / bandwidth
    axes.plot([low, corner], [low * bandwidth, products], color="black", linewidth=1.2, label=f"{bandwidth:.1f} GB/s{over}")
    axes.plot([corner, high], [products, products], color="black", linewidth=1.2, label=f"{products:.0f} GFLOP/s in products")
    axes.plot([f32 / bandwidth, high], [f32, f32], "--", color="black", linewidth=1, label=f"{f32:.0f} GFLOP/s in f32")


def draw_phase(axes, phase, color):
    """One mark for every row; its area grows with the row's share of the phase's time. A prompt that was cut into chunks
    has several rows for an operation: the legend tells the figures of all of them together."""
    tokens = "1 token" if phase["tokens"] == 1 else f"{phase['tokens']} tokens"
    axes.plot([], [], " ", label=f"\n{phase['name']}, {tokens}: share, of roof")
    for name, shape in SHAPES.items():
        rows = [o for o in phase["operations"] if o["operation"] == name]
        style = {"marker": shape, "facecolors": "none", "edgecolors": color, "linewidths": 1.2, "zorder": 3}
        for o in rows:
            axes.scatter(o["intensity"], o["gflop_per_second"], s=20 + 220 * o["share"], **style)
        if rows:
            share, time = sum(o["share"] for o in rows), sum(o["ms"] for o in rows)
            of_roof = sum(o["roof_ms"] for o in rows) / time
            axes.scatter([], [], s=45, label=f"{name}: {100 * share:.1f} %, {100 * of_roof:.0f} %", **style)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1]) as f:
        profile = json.load(f)
    machine = profile["machine"]
    points = [o for phase in profile["phases"] for o in phase["operations"]]
    low = min(o["intensity"] for o in points) / 2
    high = 2 * max(max(o["intensity"] for o in points), machine["products_gflop_per_second"] / machine["gb_per_second"])
    plt.rcParams["svg.hashsalt"] = "gpt2"
    figure, axes = plt.subplots(figsize=(9, 4.8))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(which="major", color="0.9", linewidth=0.6)
    draw_roof(axes, machine, low, high)
    for phase, color in zip(profile["phases"], ("tab:blue", "tab:orange")):
        draw_phase(axes, phase, color)
    axes.set_xlim(low, high)
    axes.set_xlabel("arithmetic intensity, FLOP per byte")
    axes.set_ylabel("GFLOP/s")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    where = profile.get("device", "from the shapes alone")
    axes.set_title(f"{profile['model'].split('/')[-1]}, {profile['dtype']} weights; {where}", fontsize=10)
    figure.tight_layout()
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
