"""The load behind scripts/soak.sh."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

from e2e_chaos import Job
from e2e_daemon import DaemonProcess

from mnemosyne_client import Client

OPTIMIZERS = ("sgd", "adam", "adamw", "lion")
WORKERS = 4
GROWTH_MAX = 0.01


def measure(pid: int) -> tuple[int, int, int]:
    """Returns resident KiB, file descriptors and threads of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(fields["VmRSS"].split()[0]), descriptors, int(fields["Threads"])


def work(address: str, seed: int, stop: threading.Event, counts: dict[str, int]) -> None:
    """Makes sessions, steps them, leaves some of them behind for a while, and deletes them."""
    rng = random.Random(seed)
    with Client(address, wait_seconds=60) as client:
        left: list[Job] = []
        while not stop.is_set():
            job = Job(
                client,
                rng.choice(OPTIMIZERS),
                rng.choice(("snapshot", "step")),
                f"soak-{seed}-{counts['sessions']}-{rng.random()}",
            )
            counts["sessions"] += 1
            job.run(rng.randint(1, 30))
            job.close()
            left.append(job)
            if len(left) > 5:
                again = left.pop(rng.randrange(len(left)))
                again.run(3)  # It may have to come back from the disk.
                again.close()
                client.delete_session(again.session)


def main() -> int:
    """Runs the load; returns 1 if the daemon grew."""
    parser = argparse.ArgumentParser(prog="scripts/soak.sh")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    stop = threading.Event()
    counts = {"sessions": 0}
    rows = []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        daemon = DaemonProcess(
            *("--state-dir", str(Path(folder) / "state")),
            *("--snapshot-seconds", "2", "--memory-max", "400KiB", "--threads", "2"),
        )
        threads = [
            threading.Thread(target=work, args=(daemon.tcp, seed, stop, counts), daemon=True)
            for seed in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        begin = time.monotonic()
        while time.monotonic() - begin < options.minutes * 60:
            time.sleep(min(5.0, options.minutes * 3))
            rows.append((time.monotonic() - begin, *measure(daemon.process.pid)))
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
        code = daemon.stop()
    # The warm-up is the first third; what counts is the highest of the next and of the last.
    third = len(rows) // 3
    before = [max(row[i] for row in rows[third : 2 * third]) for i in (1, 2, 3)]
    after = [max(row[i] for row in rows[2 * third :]) for i in (1, 2, 3)]
    growth = [late / early - 1 for early, late in zip(before, after)]
    peak = max(row[1] for row in rows)
    text = (
        f"- {options.minutes:g} minutes, {counts['sessions']} sessions, exit code {code}\n"
        f"- highest in the middle third and in the last third: resident memory {before[0]} and "
        f"{after[0]} KiB ({growth[0]:+.2%}), descriptors {before[1]} and {after[1]}, "
        f"threads {before[2]} and {after[2]}\n\n```\n"
        + "\n".join(
            f"{row[0]:7.0f} s {row[1]:8d} KiB {row[2]:4d} fds {row[3]:3d} threads "
            + "#" * round(40 * row[1] / peak)
            for row in rows[:: max(1, len(rows) // 40)]
        )
        + "\n```\n"
    )
    if options.report:
        options.report.write_text(text)
    print(text)
    return 0 if code == 0 and max(growth) < GROWTH_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
