"""The long fault injection behind scripts/chaos.sh."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from e2e_chaos import discover, disturbed


def main() -> int:
    """Disturbs a job everywhere; returns 1 if any run ended with other bits."""
    parser = argparse.ArgumentParser(prog="scripts/chaos.sh")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    start = time.monotonic()
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    deaths = 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        root = Path(folder)
        expected, points = discover(root / "quiet", root / "points")
        for turn in range(1, options.rounds + 1):
            for point in points:
                # One turn in five delays instead of killing.
                action = f"delay:30@{turn}" if turn % 5 == 0 else f"kill@{turn}"
                plans = [f"{point}={action}", f"{point}=kill@{turn}"]
                try:
                    bits, daemons = disturbed(root / f"{turn}-{point}", plans)
                    outcome = "same bits" if bits == expected else "OTHER BITS"
                    deaths += daemons.deaths
                except Exception as error:  # Every failure belongs into the report.
                    outcome = f"{type(error).__name__}: {error}"[:200]
                outcomes[outcome] += 1
                if outcome != "same bits":
                    failures.append(f"{point} {action}: {outcome}")
                    print(failures[-1], file=sys.stderr, flush=True)
    lines = [
        f"- {len(points)} fail points, {options.rounds} rounds, {sum(outcomes.values())} runs, "
        f"{deaths} deaths of a daemon, {time.monotonic() - start:.0f} s; load of the machine at "
        f"the end {os.getloadavg()[0]:.1f}",
        *(f"- {count} runs: {outcome}" for outcome, count in outcomes.most_common()),
        "",
        "Points: " + ", ".join(f"`{point}`" for point in points) + ".",
    ]
    text = "\n".join(lines) + "\n"
    if options.report:
        options.report.write_text(text)
    print(text)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
