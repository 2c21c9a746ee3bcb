"""Measures with Nsight Compute the bytes that steps read from and write to a GPU's memory.

    gpu_bytes.py PROGRAMS MODELS OURS.jsonl

PROGRAMS is the folder of device_bench, MODELS that of the weights; OURS.jsonl is what device_bench
printed, whose pairs are measured. Prints a line of JSON for each pair: the bytes that all kernels
of a step read and wrote, and how many kernels there were. Where ncu is missing, or may not read the
counters, it says so on standard error and prints nothing.
"""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

STEPS = 3  # From the second one on, a step that is recorded is started as a graph.
READ, WRITTEN = "dram__bytes_read.sum", "dram__bytes_write.sum"
NCU = [
    "ncu",
    "--csv",
    *("--metrics", f"{READ},{WRITTEN}"),
    *("--print-units", "base"),
    *("--clock-control", "none"),
    *("--cache-control", "none"),
]
SECONDS_MAX = 120


def read_csv(text):
    """Returns the sums of both metrics, and how many kernels were measured."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    sums, kernels = {READ: 0.0, WRITTEN: 0.0}, set()
    for row in csv.DictReader(lines[start:]):
        if row.get("Metric Name") in sums:
            sums[row["Metric Name"]] += float(row["Metric Value"].replace(",", ""))
            kernels.add(row["ID"])
    return sums, len(kernels)


def measure(programs, models, pair):
    """Returns the figures of an optimizer over a set; nothing where ncu cannot tell."""
    command = [
        *NCU,
        programs / "device_bench",
        *("--device", pair["device"]),
        *("--models", models),
        *("--set", pair["set"]),
        *("--optimizer", pair["optimizer"]),
        *("--bits", str(pair["state_bits"])),
        *("--steps", str(STEPS)),
    ]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        print(f"gpu_bytes: {pair['optimizer']} of {pair['set']}: too long", file=sys.stderr)
        return None
    sums, kernels = read_csv(run.stdout)
    if kernels == 0:
        print(f"gpu_bytes: ncu: {(run.stdout + run.stderr)[-400:]}", file=sys.stderr)
        return None
    return {
        **{key: pair[key] for key in ("set", "optimizer", "state_bits", "parameters")},
        "kernels": kernels / STEPS,
        "read_bytes": sums[READ] / STEPS,
        "written_bytes": sums[WRITTEN] / STEPS,
    }


def main():
    """Measures all pairs."""
    if shutil.which("ncu") is None:
        print("gpu_bytes: there is no ncu; bytes are not measured", file=sys.stderr)
        return
    programs, models = Path(sys.argv[1]), sys.argv[2]
    pairs = [json.loads(line) for line in Path(sys.argv[3]).read_text().splitlines()]
    for pair in pairs:
        figures = measure(programs, models, pair)
        if figures is not None:
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
