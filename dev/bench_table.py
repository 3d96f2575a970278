#!/usr/bin/env python3
"""Prints the rows that dev/bench.c and dev/bench_torch.py wrote (--json) as a markdown table.

    python3 dev/bench_table.py ROWS.json
"""
import json
import statistics
import sys


def scaled(row, seconds):
    """Median [slowest .. fastest] as the row's rate, or in milliseconds where it has none."""
    if not seconds:
        return ""
    middle, least, most = statistics.median(seconds), min(seconds), max(seconds)
    if row["rate_of"] > 0:
        return f"{row['rate_of'] / middle:.1f} [{row['rate_of'] / most:.1f} .. {row['rate_of'] / least:.1f}]"
    return f"{1e3 * middle:.1f} ms [{1e3 * least:.1f} .. {1e3 * most:.1f}]"


def paired(a, b):
    """The median of the quotients of what was measured side by side."""
    return statistics.median(x / y for x, y in zip(a, b))


def limit(row):
    """What was used of the memory's bandwidth or of the peak rate, both measured beside each repeat; beside the bandwidth
    the time in which one thread hands a cache line to another."""
    seconds = statistics.median(row["seconds"])
    if row["bandwidth"]:
        share = paired([row["bytes"] / rate for rate in row["bandwidth"]], row["seconds"])
        text = f"{1e-9 * row['bytes'] / seconds:.1f} GB/s, {100 * share:.0f} % of {1e-9 * statistics.median(row['bandwidth']):.1f}"
        handover = row.get("handover")
        return text + f" ({1e9 * statistics.median(handover):.0f} ns)" if handover else text
    if row["peak"]:
        share = paired([row["operations"] / rate for rate in row["peak"]], row["seconds"])
        return f"{1e-9 * row['operations'] / seconds:.0f} Gop/s, {100 * share:.0f} % of {1e-9 * statistics.median(row['peak']):.0f}"
    return ""


def line(row):
    ratio = ""
    if row["peer_seconds"]:
        ratio = f"{paired(row['peer_seconds'], row['seconds']):.2f}"
    memory = f"{row['megabytes']:.0f} MB" if row["megabytes"] > 0 else ""
    if row["peer_megabytes"] > 0:
        memory += f"; peer {row['peer_megabytes']:.0f} MB"
    notes = "; ".join(text for text in (memory, row["note"]) if text)
    cells = (row["row"], row["dtype"], scaled(row, row["seconds"]), scaled(row, row["peer_seconds"]),
             row["peer_flags"], ratio, limit(row), notes)
    return "| " + " | ".join(cells) + " |"


def main():
    with open(sys.argv[1]) as f:
        rows = [json.loads(text) for text in f]
    print("| work | weights | ours | peer | peer's flags | times as fast | of the machine's limit | notes |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(line(row))


if __name__ == "__main__":
    main()
