"""Measures with Nsight Compute the bytes that steps read from and write to a GPU's memory.

    gpu_bytes.py PROGRAMS MODELS [device_bench's --set and --optimizer ...]

PROGRAMS is the folder of device_bench, MODELS that of the weights. Prints a line of JSON for each
optimizer over each set of tensors: the bytes that all kernels of a step read and wrote, and how
many kernels there were. Where ncu is missing, or may not read the counters, it says so on standard
error and prints nothing.
"""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

STEPS = 2
MARK = "MeasureGradients"  # The kernel that device_bench launches before and after a pair's steps.
READ, WRITTEN = "dram__bytes_read.sum", "dram__bytes_write.sum"
NCU = [
    "ncu",
    "--csv",
    *("--metrics", f"{READ},{WRITTEN}"),
    *("--print-units", "base"),
    *("--clock-control", "none"),
    *("--cache-control", "none"),
]


def read_kernels(text):
    """Returns for each mark the kernels that follow it: of each a dictionary of both metrics."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    parts, last = [], None
    for row in csv.DictReader(lines[start:]):
        if row.get("Metric Name") not in (READ, WRITTEN):
            continue
        is_mark = MARK in row["Kernel Name"]
        if row["ID"] != last:
            last = row["ID"]
            if is_mark:
                parts.append([])
            elif parts:
                parts[-1].append({})
        if parts and not is_mark:
            parts[-1][-1][row["Metric Name"]] = float(row["Metric Value"].replace(",", ""))
    return parts


def figures_of(pair, kernels):
    """Returns a step's bytes."""
    return {
        **{key: pair[key] for key in ("set", "optimizer", "state_bits", "parameters")},
        "kernels": len(kernels) / STEPS,
        "read_bytes": sum(kernel[READ] for kernel in kernels) / STEPS,
        "written_bytes": sum(kernel[WRITTEN] for kernel in kernels) / STEPS,
    }


def main():
    """Measures all pairs in one run."""
    if shutil.which("ncu") is None:
        print("gpu_bytes: there is no ncu; bytes are not measured", file=sys.stderr)
        return
    bench = [Path(sys.argv[1]) / "device_bench", "--device", "cuda:0", "--models", sys.argv[2]]
    command = [*NCU, *bench, "--steps", str(STEPS), *sys.argv[3:]]
    run = subprocess.run(command, capture_output=True, text=True)
    pairs = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    parts = read_kernels(run.stdout)[::2]  # Between them, the next pair is prepared.
    if not parts or len(parts) != len(pairs):
        print(f"gpu_bytes: {len(parts)} of {len(pairs)} pairs", file=sys.stderr)
        print((run.stderr or run.stdout)[-1000:], file=sys.stderr)
        return
    for pair, kernels in zip(pairs, parts):
        print(json.dumps(figures_of(pair, kernels)), flush=True)


if __name__ == "__main__":
    main()
