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
    runs = []
    for source in sources:
        with open(source) as f:
            run = json.load(f)
        if not run["timings"]["steps_ms"]:
            sys.exit(f"{source}: no token took a step; run with a larger -n")
        runs.append(run)
    top = 2 * max(run["timings"]["step_ms"]["p95"] for run in runs)  # a pause of the machine must not flatten the rest
    plt.rcParams["svg.hashsalt"] = "gpt2"
    figure, axes = plt.subplots(figsize=(7.5, 3.9))
    for i, run in enumerate(runs):
        steps, figures = run["timings"]["steps_ms"], run["timings"]["step_ms"]
        first = len(run["prompt_tokens"])  # a step runs the token at this position and gives the one after it
        label = f"{run['model']['path'].split('/')[-1]}, {run['model']['dtype']}, {run['device']}"
        if len(run["samples"]) > 1:
            label += f", {len(run['samples'])} samples together"
        label += f": median {figures['median']:.3g} ms"
        beyond = sum(step > top for step in steps)
        if beyond > 0:
            label += f"; {beyond} beyond the picture, up to {max(steps):.3g} ms"
        axes.plot(range(first, first + len(steps)), steps, ".", markersize=3, color=f"C{i}", label=label)
        axes.axhline(figures["median"], color=f"C{i}", linewidth=0.8)
    axes.set_ylim(0, top)
    axes.set_xlabel("position of the token in the context")
    axes.set_ylabel("milliseconds per token")
    axes.set_title("Time of each token; lines: medians", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
