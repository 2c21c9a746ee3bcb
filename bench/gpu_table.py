"""Prints what bench/gpu_report.sh measured as a table in Markdown.

gpu_table.py FOLDER
"""

import json
import pathlib
import sys

BYTES_OF_GRADIENT_AND_UPDATE = 8


def lines(path):
    """Returns the objects of a file of JSON lines; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def key_of(line):
    """Returns what tells one measurement of ours from the others."""
    return line["set"], line["optimizer"], line["state_bits"]


def print_steps(peers, ours, measured, copy):
    """Prints a row for each optimizer over each set: time, bytes, and what they amount to."""
    fused = {line["set"]: line for line in peers if line["peer"] == "torch_adamw_fused"}
    print(
        "| tensors | optimizer | ms | shortest | ns a parameter | bytes a parameter | by ncu |"
        " of a copy's speed | of fused AdamW |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, theirs in fused.items():
        for line in (line for line in peers if line.get("set") == name):
            print_row(line, line["peer"], "", "", "", theirs)
        for line in (line for line in ours if line["set"] == name):
            bits = ", 16 bits" if line["state_bits"] == 16 else ""
            counted = BYTES_OF_GRADIENT_AND_UPDATE + 2 * line["state_bytes_per_parameter"]
            moved = measured.get(key_of(line))
            by_ncu = "" if moved is None else f"{moved / line['parameters']:.1f}"
            moved = counted * line["parameters"] if moved is None else moved
            share = f"{moved / (line['median_ms'] * 1e-3) / copy:.0%}"
            print_row(line, line["optimizer"] + bits, f"{counted:.1f}", by_ncu, share, theirs)


def print_row(line, name, counted, by_ncu, share, fused):
    """Prints one measurement."""
    print(
        f"| {line['set']} | {name} | {line['median_ms']:.3f} | {line['shortest_ms']:.3f} |"
        f" {line['median_ms'] * 1e6 / line['parameters']:.4f} | {counted} | {by_ncu} | {share} |"
        f" {line['median_ms'] / fused['median_ms']:.2f} |"
    )


def print_sessions(measured):
    """Prints what many small sessions take, one by one and together."""
    if not measured:
        return
    print("\n| optimizer | sessions | parameters each | one by one, ms | together, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for line in measured:
        print(
            f"| {line['optimizer']} | {line['sessions']} | {line['parameters']} |"
            f" {line['one_by_one_ms']:.2f} | {line['together_ms']:.3f} | {line['ratio']:.1f} |"
        )


def main():
    """Reads peers.jsonl, ours.jsonl, bytes.jsonl and sessions.jsonl of the folder."""
    folder = pathlib.Path(sys.argv[1])
    peers = lines(folder / "peers.jsonl")
    device = next(line for line in peers if line["peer"] == "device")
    copy = next(line for line in peers if line["peer"] == "copy")["bytes_per_second"]
    measured = {
        key_of(line): line["read_bytes"] + line["written_bytes"]
        for line in lines(folder / "bytes.jsonl")
    }
    print(
        f"On one {device['name']}, PyTorch {device['torch']}; "
        f"a copy reads and writes {copy / 1e12:.2f} TB/s.\n"
    )
    print_steps(peers, lines(folder / "ours.jsonl"), measured, copy)
    print_sessions(lines(folder / "sessions.jsonl"))


if __name__ == "__main__":
    main()
