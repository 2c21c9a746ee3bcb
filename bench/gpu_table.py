"""Prints what bench/gpu_report.sh measured as a table in Markdown.

gpu_table.py FOLDER
"""

import json
import pathlib
import sys

BYTES_OF_GRADIENT_AND_UPDATE = 8


def print_sessions(measured):
    """Prints what many small sessions take, one by one and together."""
    print("\n| optimizer | sessions | parameters each | one by one, ms | together, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for line in measured:
        print(
            f"| {line['optimizer']} | {line['sessions']} | {line['parameters']} |"
            f" {line['one_by_one_ms']:.2f} | {line['together_ms']:.3f} | {line['ratio']:.1f} |"
        )


def lines(path):
    """Returns the objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def main():
    """Reads peers.jsonl, ours.jsonl and sessions.jsonl of the folder."""
    folder = pathlib.Path(sys.argv[1])
    peers = lines(folder / "peers.jsonl")
    device = next(line for line in peers if line["peer"] == "device")
    copy = next(line for line in peers if line["peer"] == "copy")["bytes_per_second"]
    fused = {
        line["set"]: line["median_ms"] for line in peers if line["peer"] == "torch_adamw_fused"
    }
    print(
        f"On one {device['name']}, PyTorch {device['torch']}; "
        f"a copy reads and writes {copy / 1e12:.2f} TB/s.\n"
    )
    print(
        "| tensors | optimizer | ms | ns/param | bytes/param | of a copy's speed | of fused AdamW |"
    )
    print("|---|---|---|---|---|---|---|")
    rows = [
        (line["set"], line["peer"], line["median_ms"], line["parameters"], None)
        for line in peers
        if "median_ms" in line
    ]
    for line in lines(folder / "ours.jsonl"):
        moved = BYTES_OF_GRADIENT_AND_UPDATE + 2 * line["state_bytes_per_parameter"]
        name = line["optimizer"] + (", 16 bits" if line["state_bits"] == 16 else "")
        rows.append((line["set"], name, line["median_ms"], line["parameters"], moved))
    order = list(fused)
    for name, optimizer, ms, count, moved in sorted(rows, key=lambda row: order.index(row[0])):
        share = "" if moved is None else f"{count * moved / (ms * 1e-3) / copy:.0%}"
        print(
            f"| {name} | {optimizer} | {ms:.3f} | {ms * 1e6 / count:.4f} |"
            f" {'' if moved is None else f'{moved:.1f}'} | {share} | {ms / fused[name]:.2f} |"
        )
    print_sessions(lines(folder / "sessions.jsonl"))


if __name__ == "__main__":
    main()
