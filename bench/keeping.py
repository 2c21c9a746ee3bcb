"""What keeping sessions costs: steps with and without snapshots and logs, loading, recovery.

usage: PYTHONPATH=client/python/src:tests/e2e .venv/bin/python bench/keeping.py [--elements N]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from e2e_daemon import DaemonProcess, binary

from mnemosyne_client import Client
from mnemosyne_client import messages as m


def make(client, elements, durability):
    """Makes a session of eight tensors."""
    parameters = [m.ParameterSpec(name=f"p{i}", shape=(elements // 8,)) for i in range(8)]
    return client.create_session("adamw", parameters, durability=durability)


def steps(stream, gradients, seconds):
    """Steps for a while; returns the time of each step."""
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.monotonic()
        stream.step(gradients)
        times.append(time.monotonic() - begin)
    return np.array(times)


def tell(what, times):
    """Prints a row of the table."""
    print(
        f"| {what} | {len(times) / times.sum():.1f} | {np.median(times) * 1e3:.1f} | "
        f"{np.percentile(times, 99) * 1e3:.1f} | {times.max() * 1e3:.1f} |",
        flush=True,
    )


def main():
    """Measures."""
    # Files of the daemon lie beside the sources, not in a file system in memory.
    parser = argparse.ArgumentParser()
    parser.add_argument("--elements", type=int, default=8_000_000)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    print(f"{binary()}, {options.elements} elements, adamw, load {os.getloadavg()[0]:.1f}\n")
    gradients = None
    print("| daemon | steps/s | median ms | p99 ms | longest ms |\n|---|---|---|---|---|")
    runs = [
        ("no state folder", [], "snapshot"),
        (
            "a snapshot in the time",
            ["--snapshot-seconds", str(int(options.seconds * 0.5))],
            "snapshot",
        ),
        ("a snapshot every 5 s", ["--snapshot-seconds", "5"], "snapshot"),
        ("every step logged", ["--snapshot-seconds", "0"], "step"),
    ]
    with tempfile.TemporaryDirectory(prefix="keeping-", dir=".") as folder:
        for number, (what, flags, durability) in enumerate(runs):
            state = Path(folder) / str(number)
            if number > 0:
                flags = ["--state-dir", str(state), *flags]
            daemon = DaemonProcess("--models", "none", *flags)
            with Client(daemon.tcp, wait_seconds=60) as client:
                session = make(client, options.elements, durability)
                gradients = [np.full(s, 0.01, np.float32) for s in session.shapes]
                with client.open_stream(session, replay_bytes=0) as stream:
                    steps(stream, gradients, 2)
                    tell(what, steps(stream, gradients, options.seconds))
                keeping = client.server_info().state_keeping
                if keeping.snapshot_count:
                    print(
                        f"  last snapshot: {keeping.last_snapshot_seconds:.2f} s, steps waited "
                        f"{keeping.last_held_seconds:.3f} s"
                    )
            daemon.stop()
        print("\n| state bytes | kill -9 to the next applied step, s |\n|---|---|")
        for elements in (options.elements // 64, options.elements // 8, options.elements):
            state = Path(folder) / f"restore-{elements}"
            flags = ["--models", "none", "--state-dir", str(state)]
            daemon = DaemonProcess(*flags)
            client = Client(daemon.tcp, wait_seconds=60)
            session = make(client, elements, "snapshot")
            gradients = [np.full(s, 0.01, np.float32) for s in session.shapes]
            stream = client.open_stream(session)
            stream.step(gradients)
            stream.snapshot()
            begin = time.monotonic()
            daemon.kill()
            daemon2 = DaemonProcess(*flags, listen=daemon.tcp)
            stream.step(gradients)
            print(f"| {8 * elements} | {time.monotonic() - begin:.2f} |", flush=True)
            stream.close()
            client.close()
            daemon2.stop()


if __name__ == "__main__":
    main()
