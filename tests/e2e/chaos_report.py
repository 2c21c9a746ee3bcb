"""The long fault injection behind scripts/chaos.sh."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from e2e_chaos import APART, arm, discover, disturbed

# Jobs of one round: each takes up the points that no daemon of those before has met.
JOBS_MAX = 4


def run_round(
    folder: Path, points: list[str], expected: bytes, rng: random.Random
) -> tuple[Counter[str], int, list[str]]:
    """Disturbs jobs until all points were met, on the CPU or a device with a memory of its own.

    Returns:
        What happened, such as `kill stream.end`; how many daemons died; what went wrong.
    """
    happened: Counter[str] = Counter()
    deaths = 0
    missing = list(points)
    for number in range(JOBS_MAX):
        # Points that are passed only once in a daemon's life are met at the first pass alone.
        armed = arm(missing, rng) if number == 0 else {p: "kill@1" for p in missing}
        state = folder / str(number)
        try:
            flags = APART if number > 0 or rng.random() < 0.5 else {}
            bits, daemons = disturbed(state, armed, **flags)
        except Exception as error:  # Every failure belongs into the report.
            return happened, deaths, [f"{armed}: {type(error).__name__}: {error}"[:3000]]
        if bits != expected:
            return happened, deaths, [f"{armed}: OTHER BITS"]
        deaths += daemons.deaths
        for point in daemons.met:
            if point in armed:
                happened[f"{armed[point].split(':')[0].split('@')[0]} {point}"] += 1
        missing = [point for point in missing if point not in daemons.met]
        shutil.rmtree(state)
        if not missing:
            break
    return happened, deaths, []


def main() -> int:
    """Disturbs jobs everywhere; returns 1 if any ended with other bits."""
    parser = argparse.ArgumentParser(prog="scripts/chaos.sh")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=24 * 60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    start = time.monotonic()
    happened: Counter[str] = Counter()
    failures: list[str] = []
    deaths = rounds = 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        root = Path(folder)
        expected, points = discover(root / "quiet")
        while rounds < options.rounds and time.monotonic() - start < 60 * options.minutes:
            rng = random.Random(options.seed + rounds)
            some, died, wrong = run_round(root / f"round{rounds}", points, expected, rng)
            happened.update(some)
            deaths += died
            rounds += 1
            failures += [f"seed {options.seed + rounds - 1}: {what}" for what in wrong]
            print(f"round {rounds}: {died} deaths, {wrong or 'the same bits'}", flush=True)
    kills = {p: happened[f"kill {p}"] for p in points}
    delays = {p: happened[f"delay {p}"] for p in points}
    fewest = sorted(points, key=lambda p: kills[p] + delays[p])[:5]
    lines = [
        f"- {rounds} rounds over {len(points)} fail points in {time.monotonic() - start:.0f} s: "
        f"{sum(kills.values())} kills at a point, {sum(delays.values())} delays, {deaths} ends of "
        f"a daemon, orderly ones included; load of the machine at the end {os.getloadavg()[0]:.1f}",
        f"- rounds that ended with other bits than the undisturbed run, or not at all: "
        f"{len(failures)}",
        "- fewest: " + ", ".join(f"`{p}` {kills[p] + delays[p]}" for p in fewest),
        *(f"- {failure}" for failure in failures),
        "",
        "Kills at each point (and delays): "
        + ", ".join(f"`{p}` {kills[p]} ({delays[p]})" for p in points)
        + ".",
    ]
    text = "\n".join(lines) + "\n"
    if options.report:
        options.report.write_text(text)
    print(text)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
