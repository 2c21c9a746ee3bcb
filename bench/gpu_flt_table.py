"""Prints what bench/gpu_report.sh measured of FLT attention as a table in Markdown.

gpu_flt_table.py FOLDER
"""

import json
import pathlib
import sys

PEERS = ("SDPA", "FlexAttention", "compiled FLT")


def lines(path):
    """Returns the objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def main():
    """Reads peers.jsonl, flt.jsonl and flt_peers.jsonl of the folder."""
    folder = pathlib.Path(sys.argv[1])
    copy = next(line for line in lines(folder / "peers.jsonl") if line["peer"] == "copy")
    bandwidth = copy["bytes_per_second"]
    peers = {
        (line["flt"], line["length"], line["type"], line["causal"]): line["median_ms"]
        for line in lines(folder / "flt_peers.jsonl")
    }
    print(
        "\n| length | type | causal | ms | GB/s | times the floor of bytes | difference | "
        + " | ".join(f"{peer}, times ours" for peer in PEERS)
        + " |"
    )
    print("|" + "---|" * (7 + len(PEERS)))
    for line in lines(folder / "flt.jsonl"):
        ms = line["median_ms"]
        cells = [
            str(line["length"]),
            line["type"],
            "yes" if line["causal"] else "no",
            f"{ms:.4f}",
            f"{line['bytes'] / ms / 1e6:.0f}",
            f"{ms * 1e-3 * bandwidth / line['bytes']:.2f}",
            f"{line['difference']:.1e}" if "difference" in line else "",
        ]
        for peer in PEERS:
            theirs = peers.get((peer, line["length"], line["type"], line["causal"]))
            cells.append("" if theirs is None else f"{theirs / ms:.1f}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
