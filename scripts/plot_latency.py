#!/usr/bin/env python3
"""Draws the time of every token against its position.

    ./gpt2 -n -1 --ignore-eos --json > run.json
    python3 scripts/plot_latency.py run.json [other.json ...] latency.svg

Several runs are drawn into one picture. Needs matplotlib.
"""
import json
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    *sources, target = sys.argv[1:]
    plt.rcParams["svg.hashsalt"] = "gpt2"
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    highest = 0
    for i, source in enumerate(sources):
        with open(source) as f:
            run = json.load(f)
        steps = run["timings"]["steps_ms"]
        if not steps:
            sys.exit(f"{source}: no token took a step; run with a larger -n")
        first = len(run["prompt_tokens"])  # a step runs the token at this position and gives the one after it
        median = run["timings"]["step_ms"]["median"]
        highest = max(highest, 2 * run["timings"]["step_ms"]["p95"])
        label = f"{run['model']['path'].split('/')[-1]}, {run['model']['dtype']}, {run['device']}; median {median:.3g} ms"
        axes.plot(range(first, first + len(steps)), steps, ".", markersize=3, color=f"C{i}", label=label)
        axes.axhline(median, color=f"C{i}", linewidth=0.8)
    axes.set_ylim(0, highest)
    axes.set_xlabel("position")
    axes.set_ylabel("ms per token")
    axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
