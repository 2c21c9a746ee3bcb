"""What keeping sessions costs: snapshots, logs of steps, loading, and recovery from a crash.

Each comparison takes turns between its two sides within one run, so that other work on the machine
meets both; read the ratios.

usage: PYTHONPATH=client/python/src:tests/e2e .venv/bin/python bench/keeping.py [--elements N]
       [--only snapshots|logs|recovery ...]
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from e2e_daemon import DaemonProcess, binary

from mnemosyne_client import Client
from mnemosyne_client import messages as m

TENSORS = 8
MINUTE = 60.0
# A state of adamw: two float32 for each element.
STATE_BYTES = 8


def make(client, elements, durability):
    """Makes a session of eight tensors."""
    shape = (elements // TENSORS,)
    parameters = [m.ParameterSpec(name=f"p{i}", shape=shape) for i in range(TENSORS)]
    return client.create_session("adamw", parameters, durability=durability)


def gradients_of(session):
    """The same gradients for every step."""
    return [np.full(s, 0.01, np.float32) for s in session.shapes]


def steps(stream, gradients, seconds):
    """Steps for a while; returns the time of each step."""
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.monotonic()
        stream.step(gradients)
        times.append(time.monotonic() - begin)
    return times


def rate(times):
    """Steps in a second."""
    return len(times) / sum(times)


def measure_snapshots(state, elements, slices, seconds):
    """Steps alone, and steps with one snapshot in each slice."""
    daemon = DaemonProcess("--models", "none", "--state-dir", str(state), "--snapshot-seconds", "0")
    quiet, disturbed, held = [], [], []
    with Client(daemon.tcp, wait_seconds=60) as client:
        session = make(client, elements, "snapshot")
        gradients = gradients_of(session)
        with client.open_stream(session, replay_bytes=0) as stream:
            steps(stream, gradients, 2)
            for _ in range(slices):
                quiet += steps(stream, gradients, seconds)
                snapshot = threading.Thread(target=client.snapshot_session, args=(session,))
                snapshot.start()
                disturbed += steps(stream, gradients, seconds)
                snapshot.join()
                held.append(client.server_info().state_keeping.last_held_seconds)
    assert daemon.stop() == 0
    lost = seconds * (1 - rate(disturbed) / rate(quiet))
    # A minute of steps: as many quiet ones as fit beside one slice with a snapshot.
    copies = round((MINUTE - seconds) / seconds)
    pooled = np.array(quiet * copies + disturbed)
    print(
        f"snapshots of {STATE_BYTES * elements / 1e6:.0f} MB, {slices} slices of {seconds:g} s "
        f"with one and {slices} without:\n"
        f"- step rate with one a minute: {-100 * lost / MINUTE:+.2f} % "
        f"(one costs {lost:.2f} s of steps; target: less than 3 %)\n"
        f"- p99 of a step with one a minute: {np.percentile(pooled, 99) * 1e3:.1f} ms, without: "
        f"{np.percentile(quiet, 99) * 1e3:.1f} ms, ratio "
        f"{np.percentile(pooled, 99) / np.percentile(quiet, 99):.2f} (target: below 2)\n"
        f"- longest step in a slice with one: {max(disturbed) * 1e3:.0f} ms, without: "
        f"{max(quiet) * 1e3:.0f} ms; steps were held for {np.median(held) * 1e3:.0f} ms "
        "(median)",
        flush=True,
    )


def measure_log(state, elements, slices, seconds):
    """Steps of a session of each durability in turn."""
    daemon = DaemonProcess("--models", "none", "--state-dir", str(state), "--snapshot-seconds", "0")
    with Client(daemon.tcp, wait_seconds=60) as client:
        sessions = {d: make(client, elements, d) for d in ("snapshot", "step")}
        streams = {d: client.open_stream(s, replay_bytes=0) for d, s in sessions.items()}
        gradients = gradients_of(sessions["step"])
        times = {d: [] for d in streams}
        for _ in range(slices):
            for durability, stream in streams.items():
                times[durability] += steps(stream, gradients, seconds)
        for stream in streams.values():
            stream.close()
        for session in sessions.values():
            client.delete_session(session)
    daemon.stop()
    logged, plain = np.median(times["step"]), np.median(times["snapshot"])
    print(
        f"durability, {4 * elements / 1e6:.1f} MB of gradients: median step {plain * 1e3:.2f} ms "
        f"with `snapshot`, {logged * 1e3:.2f} ms with `step`, ratio {logged / plain:.2f}; "
        f"p99 {np.percentile(times['snapshot'], 99) * 1e3:.1f} and "
        f"{np.percentile(times['step'], 99) * 1e3:.1f} ms",
        flush=True,
    )


def forget_cache(folder):
    """Lets the machine forget what it knows of the files."""
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_seconds(path):
    """How long it takes to read a file."""
    forget_cache(path.parent)
    begin = time.monotonic()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(8 << 20)
        while file.readinto(buffer):
            pass
    return time.monotonic() - begin


def measure_recovery(state, elements, rounds):
    """Kills a daemon and takes the next step, in turns with reads of the disk; prints medians."""
    flags = ["--models", "none", "--state-dir", str(state), "--snapshot-seconds", "0"]
    daemon = DaemonProcess(*flags)
    client = Client(daemon.tcp, wait_seconds=60)
    session = make(client, elements, "snapshot")
    gradients = gradients_of(session)
    stream = client.open_stream(session, replay_bytes=0)
    stream.step(gradients)
    stream.snapshot()
    newest = sorted((state / "sessions" / session.name.split("/")[1]).glob("0*.safetensors"))[-1]
    loads, recoveries, reads = [], [], []
    for _ in range(rounds):
        reads.append(read_seconds(newest))
        forget_cache(state)
        begin = time.monotonic()
        daemon.kill()
        daemon = DaemonProcess(*flags, listen=daemon.tcp)
        stream.step(gradients)
        recoveries.append(time.monotonic() - begin)
        stream.snapshot()
        newest = sorted(newest.parent.glob("0*.safetensors"))[-1]
        log = daemon._log_file.read_text()
        loads.append(float(re.search(r"session loaded.* seconds=([0-9.e+-]+)", log)[1]))
    size = newest.stat().st_size / 1e6
    read, load, recovery = (np.median(values) for values in (reads, loads, recoveries))
    print(
        f"| {size:.1f} | {size / read:.0f} | {size / load:.0f} | {read / load:.2f} | "
        f"{recovery:.2f} |",
        flush=True,
    )
    stream.close()
    client.delete_session(session)
    client.close()
    daemon.stop()


def main():
    """Measures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--elements", type=int, default=8_000_000)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=7, help="of recoveries")
    parser.add_argument("--folder", default=".", help="where the states lie")
    parser.add_argument("--only", choices=("snapshots", "logs", "recovery"), nargs="*", default=())
    options = parser.parse_args()
    wanted = options.only or ("snapshots", "logs", "recovery")
    print(
        f"{binary().parents[1].name} build, {options.elements} elements, adamw, load "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n"
    )
    # Files of the daemon lie beside the sources, not in a file system in memory.
    with tempfile.TemporaryDirectory(prefix="keeping-", dir=options.folder) as folder:
        root = Path(folder)
        if "snapshots" in wanted:
            measure_snapshots(root / "snapshots", options.elements, options.slices, options.seconds)
        if "logs" in wanted:
            for elements in (options.elements // 1000, options.elements // 8, options.elements):
                measure_log(root / f"log-{elements}", elements, options.slices, options.seconds / 3)
        if "recovery" not in wanted:
            return
        print(
            "\n| snapshot, MB | disk read, MB/s | load, MB/s | load to disk | kill -9 to the next "
            "applied step, s |\n|---|---|---|---|---|"
        )
        for elements in (options.elements // 64, options.elements // 8, options.elements):
            measure_recovery(root / f"restore-{elements}", elements, options.rounds)


if __name__ == "__main__":
    main()
