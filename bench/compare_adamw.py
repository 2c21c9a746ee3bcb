"""Compares our AdamW with PyTorch's on this machine's CPU.

    compare_adamw.py --bench build/release/bin/optimizer_bench --python /usr/bin/python3 [...]

Each round measures ours and then each PyTorch, so that all see the same machine; the shortest step
of all rounds counts. Prints a Markdown table: nanoseconds a parameter, and our time over theirs,
for the update alone (the daemon's part) and with the client's applying of it (in that PyTorch).
"""

import argparse
import json
import pathlib
import subprocess

TORCH_PROGRAM = pathlib.Path(__file__).with_name("torch_adamw.py")
VARIANTS = ("single", "foreach", "fused")


def run_ours(bench, count, seconds):
    """Returns seconds a parameter of our shortest step."""
    output = subprocess.run(
        [
            bench,
            f"--benchmark_filter=^adamw/{count}/real_time$",
            f"--benchmark_min_time={seconds}",
            "--benchmark_format=json",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    runs = json.loads(output)["benchmarks"]
    return min(r["shortest_ns_per_parameter"] for r in runs) * 1e-9


def run_torch(python, count, seconds):
    """Returns what torch_adamw.py measured, as a dictionary."""
    output = subprocess.run(
        [python, TORCH_PROGRAM, str(count), str(seconds)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return json.loads(output)


def merge(best, new):
    """Keeps the shorter of two measurements of each kind."""
    for key, value in new.items():
        if isinstance(value, float) and isinstance(best.get(key), float):
            value = min(value, best[key])
        best[key] = value


def measure(args, count):
    """Measures all programs in turn, round after round, and prints their rows."""
    ours, theirs = float("inf"), {python: {} for python in args.python}
    for _ in range(args.rounds):
        ours = min(ours, run_ours(args.bench, count, args.seconds))
        for python, best in theirs.items():
            merge(best, run_torch(python, count, args.seconds))
    return ours, theirs


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True, help="the program optimizer_bench")
    parser.add_argument("--python", required=True, nargs="+", help="interpreters with PyTorch")
    parser.add_argument("--counts", type=int, nargs="+", default=[10**k for k in range(4, 9)])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each variant, each round")
    args = parser.parse_args()

    print(
        "| parameters | PyTorch | variant | theirs, ns "
        "| our update, ns (ratio) | with apply, ns (ratio) |"
    )
    print("|---|---|---|---|---|---|")
    for count in args.counts:
        ours, theirs = measure(args, count)
        for best in theirs.values():
            for variant in VARIANTS:
                if best[variant] is None:
                    continue
                scale = 1e9 / count
                update, whole = ours * count, ours * count + best["apply"]
                print(
                    f"| {count:.0e} | {best['torch']} | {variant} | {best[variant] * scale:.3f} "
                    f"| {update * scale:.3f} ({update / best[variant]:.2f}) "
                    f"| {whole * scale:.3f} ({whole / best[variant]:.2f}) |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
