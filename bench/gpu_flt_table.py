"""Prints what bench/gpu_flt_report.sh measured of FLT attention as a table in Markdown.

gpu_flt_table.py FOLDER
"""

import json
import pathlib
import sys

PEERS = ("SDPA", "FlexAttention", "compiled FLT", "fla")
HEADS = 8

# Multiply-adds of a row of a head: its products with the projection, both ways and for both sides,
# with sums, and with what is kept of the sums; and what an H200 has of them, in bfloat16.
WORK = {"forward": 24_576, "forward and backward": 24_576 + 61_440}
MULTIPLY_ADDS_PER_SECOND = 989e12 / 2


def lines(path):
    """Returns the objects of a file of JSON lines, in no order of their own."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def key_of(line):
    """Returns what a figure is of."""
    return line["pass"], line["length"], line["type"], line["causal"]


def main():
    """Reads flt.jsonl, flt_backward.jsonl and flt_peers.jsonl of the folder."""
    folder = pathlib.Path(sys.argv[1])
    of_peers = lines(folder / "flt_peers.jsonl")
    copies = [line["bytes_per_second"] for line in of_peers if line["flt"] == "copy"]
    bandwidth = copies[0] if copies else 4.25e12
    peers = {
        (line["flt"], *key_of(line)): line["median_ms"] for line in of_peers if "median_ms" in line
    }
    print(f"\nA copy moves {bandwidth / 1e12:.2f} TB/s; times in milliseconds, floors of bytes and")
    print("of multiply-adds in bfloat16, peers as multiples of ours.\n")
    head = ["pass", "rows", "type", "causal", "ours", "floor, bytes", "floor, arithmetic", "off"]
    print("| " + " | ".join([*head, *PEERS]) + " |")
    print("|" + "---|" * (len(head) + len(PEERS)))
    ours = [*lines(folder / "flt.jsonl"), *lines(folder / "flt_backward.jsonl")]
    for line in ours:
        ms = line["median_ms"]
        work = WORK[line["pass"]] * HEADS * line["length"]
        cells = [
            "both" if line["pass"] != "forward" else "forward",
            f"{line['length']:,}",
            line["type"],
            "yes" if line["causal"] else "no",
            f"{ms:.4f}",
            f"{1e3 * line['bytes'] / bandwidth:.4f}",
            f"{1e3 * work / MULTIPLY_ADDS_PER_SECOND:.4f}",
            f"{line['difference']:.1e}" if "difference" in line else "",
        ]
        for peer in PEERS:
            theirs = peers.get((peer, *key_of(line)))
            cells.append("" if theirs is None else f"{theirs / ms:.2f}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
