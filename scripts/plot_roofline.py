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


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1]) as f:
        profile = json.load(f)
    machine = profile["machine"]
    bandwidth, products, f32 = (machine[k] for k in ("gb_per_second", "products_gflop_per_second", "f32_gflop_per_second"))
    plt.rcParams["svg.hashsalt"] = "gpt2"
    figure, axes = plt.subplots(figsize=(7.5, 4.5))
    points = [(phase["name"], o) for phase in profile["phases"] for o in phase["operations"]]
    low = min(o["intensity"] for _, o in points) / 2
    high = max(max(o["intensity"] for _, o in points), products / bandwidth) * 3
    for peak, style, label in ((products, "-", "products"), (f32, "--", "f32")):
        ridge = peak / bandwidth
        axes.plot([low, ridge, high], [low * bandwidth, peak, peak], style, color="tab:gray", linewidth=1.2)
        axes.text(high, peak * 1.06, f"{label} {peak:.0f} GFLOP/s", ha="right", va="bottom", fontsize=8, color="dimgray")
    axes.text(low * 1.3, low * 1.3 * bandwidth * 1.5, f"{bandwidth:.1f} GB/s", fontsize=8, color="dimgray", rotation=35)
    names = sorted({o["operation"] for _, o in points})
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    markers = {"prefill": "s", "decode": "o"}
    for phase, o in points:  # the area grows with the share of the phase's time
        axes.scatter(o["intensity"], o["gflop_per_second"], s=25 + 300 * o["share"], marker=markers[phase], color=colours[o["operation"]], alpha=0.7, linewidths=0)
    for name in names:
        axes.scatter([], [], color=colours[name], label=name)
    for phase in dict.fromkeys(p for p, _ in points):
        axes.scatter([], [], color="gray", marker=markers[phase], label=phase)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("arithmetic intensity, FLOP per byte")
    axes.set_ylabel("GFLOP/s")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set_title(f"{profile['model'].split('/')[-1]}, {profile['dtype']} weights; area: share of the time", fontsize=9)
    figure.tight_layout()
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
