"""The load behind scripts/soak.sh."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

from e2e_chaos import SHAPES, Job
from e2e_daemon import ROOT, DaemonProcess

from mnemosyne_client import Client

WORKERS = 4
GROWTH_MAX = 0.01
LEFT_MAX = 5
PLOT_POINTS = 300
COLORS = ("#1b6ca8", "#c0392b", "#2e8b57")


def measure(pid: int) -> tuple[int, int, int]:
    """Returns resident KiB, file descriptors and threads of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(fields["VmRSS"].split()[0]), descriptors, int(fields["Threads"])


class Load:
    """Sessions that come, step, die and come back; counts what it did."""

    def __init__(self, address: str):
        """Starts nothing."""
        self._address = address
        self.stop = threading.Event()
        self.sessions = self.steps = self.broken = 0
        self.errors: list[str] = []

    def work(self, seed: int) -> None:
        """Makes sessions and steps them, leaves some behind for a while, and deletes them."""
        rng = random.Random(seed)
        try:
            while not self.stop.is_set():
                # A client that lives for a while; the next one has a connection of its own.
                with Client(self._address, wait_seconds=60) as client:
                    self._live(client, rng, f"{seed}-{rng.random()}")
        except Exception as error:  # It belongs into the report.
            self.errors.append(f"{type(error).__name__}: {error}")

    def _live(self, client: Client, rng: random.Random, name: str) -> None:
        optimizers = sorted({optimizer.name for optimizer in client.list_optimizers()})
        left: list[Job] = []
        for number in range(20):
            if self.stop.is_set():
                break
            job = Job(
                client,
                rng.choice(optimizers),
                rng.choice(("snapshot", "step")),
                f"{name}-{number}",
                SHAPES[: rng.randint(2, 3)],
            )
            self.sessions += 1
            self._step(job, rng.randint(1, 30))
            if rng.random() < 0.3:  # It breaks off instead of saying goodbye.
                job.stream._link.drop()
                self.broken += 1
            job.close()
            left.append(job)
            if len(left) > LEFT_MAX:
                again = left.pop(rng.randrange(len(left)))
                self._step(again, 3)  # It may have to come back from the disk.
                again.close()
                client.delete_session(again.session)
        for job in left:
            client.delete_session(job.session)

    def _step(self, job: Job, steps: int) -> None:
        job.run(steps)
        self.steps += steps


def plot(rows: list[tuple[float, int, int, int]]) -> str:
    """Draws the measured values over time, each on a scale of its own from 0, as SVG."""
    width, height, left, top = 720, 130, 60, 24
    rows = rows[:: max(1, len(rows) // PLOT_POINTS)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {3 * height + 30}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    end = rows[-1][0]
    names = ("resident memory, MiB", "file descriptors", "threads")
    for number, (name, color) in enumerate(zip(names, COLORS)):
        values = [row[number + 1] / (1024 if number == 0 else 1) for row in rows]
        peak = max(values) * 1.1
        base = top + number * height + height - 40
        points = " ".join(
            f"{left + (width - left - 10) * row[0] / end:.1f},"
            f"{base - (height - 50) * value / peak:.1f}"
            for row, value in zip(rows, values)
        )
        parts += [
            f'<text x="{left}" y="{base - height + 46}" fill="{color}">{name}: '
            f"{min(values):.0f} to {max(values):.0f}</text>",
            f'<line x1="{left}" y1="{base}" x2="{width - 10}" y2="{base}" stroke="#999"/>',
            f'<text x="{left - 8}" y="{base}" text-anchor="end">0</text>',
            f'<text x="{left - 8}" y="{base - height + 60}" text-anchor="end">{peak:.0f}</text>',
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>',
        ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + (width - left - 10) * share
        parts.append(
            f'<text x="{x:.0f}" y="{3 * height + 20}" text-anchor="middle">'
            f"{end * share / 60:.0f} min</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Runs the load; returns 1 if the daemon grew."""
    parser = argparse.ArgumentParser(prog="scripts/soak.sh")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows: list[tuple[float, int, int, int]] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        daemon = DaemonProcess(
            *("--state-dir", str(Path(folder) / "state"), "--models", str(ROOT / "models")),
            *("--snapshot-seconds", "2", "--memory-max", "1500KiB", "--threads", "2"),
        )
        load = Load(daemon.tcp)
        threads = [
            threading.Thread(target=load.work, args=(seed,), daemon=True) for seed in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        with Client(daemon.tcp) as client:
            begin = time.monotonic()
            while time.monotonic() - begin < options.minutes * 60:
                time.sleep(0.5)
                if daemon.process.poll() is not None:
                    daemon.stop()
                    print(daemon.log[-20000:], file=sys.stderr)
                    print(f"the daemon died: exit code {daemon.process.returncode}")
                    return 1
                rows.append((time.monotonic() - begin, *measure(daemon.process.pid)))
            keeping = client.server_info().state_keeping
        load.stop.set()
        for thread in threads:
            thread.join(timeout=60)
        code = daemon.stop()
    # The warm-up is the first third; what counts is the mean of the next and of the last.
    third = len(rows) // 3
    spans = (rows[third : 2 * third], rows[2 * third :])
    before, after = ([sum(row[i] for row in span) / len(span) for i in (1, 2, 3)] for span in spans)
    growth = [late / early - 1 for early, late in zip(before, after)]
    lines = [
        f"- {options.minutes:g} minutes: {load.sessions} sessions of all optimizers, {load.steps} "
        f"steps, {load.broken} streams broken off, {keeping.snapshot_count} snapshots, "
        f"{keeping.eviction_count} evictions, {keeping.load_count} loads; exit code {code}; "
        f"{len(load.errors)} clients failed",
        *(f"- {error}" for error in load.errors),
        "- mean of the middle third and of the last third: "
        f"resident memory {before[0] / 1024:.1f} and {after[0] / 1024:.1f} MiB ({growth[0]:+.2%}), "
        f"descriptors {before[1]:.1f} and {after[1]:.1f} ({growth[1]:+.2%}), "
        f"threads {before[2]:.1f} and {after[2]:.1f} ({growth[2]:+.2%})",
    ]
    text = "\n".join(lines) + "\n"
    if options.report:
        options.report.write_text(text)
    if options.plot:
        options.plot.write_text(plot(rows))
    print(text)
    # Less than one more descriptor or thread in the mean is chance.
    grew = growth[0] >= GROWTH_MAX or any(
        growth[i] >= GROWTH_MAX and after[i] - before[i] >= 1 for i in (1, 2)
    )
    return 1 if code != 0 or load.errors or grew else 0


if __name__ == "__main__":
    sys.exit(main())
