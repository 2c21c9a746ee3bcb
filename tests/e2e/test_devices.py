"""Sessions whose snapshots move between two devices.

MNEMOSYNE_TEST_DEVICES names the two, such as `cpu,cuda:0`. Without it the second one is a device of
the tests, which computes on the CPU and has a memory of its own, as a GPU has.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from e2e_chaos import Job
from e2e_daemon import ROOT, DaemonProcess, binary

from mnemosyne_client import Client

DEVICES = os.environ.get("MNEMOSYNE_TEST_DEVICES", "cpu,apart:64").split(",")
MOVES = [tuple(DEVICES), tuple(reversed(DEVICES))]
CLASSIC = ("sgd", "adam", "adamw", "lion")
LEARNED = ("mnemosyne", "mnemosyne-coordinate", "lstm", "rnnprop")
# How far parameters may be from those of a run on one device, over the way that they went: rounding
# of each step, and what later steps make of it.
BOUNDS = {**dict.fromkeys(CLASSIC, 1e-4), **dict.fromkeys(LEARNED, 1e-2)}
STEPS = 5

pytestmark = [
    pytest.mark.skipif(
        "release" in str(binary()) and any("apart" in device for device in DEVICES),
        reason="release builds have no device of the tests",
    ),
    pytest.mark.parametrize("optimizer", CLASSIC + LEARNED),
    pytest.mark.parametrize(("home", "away"), MOVES, ids=[" to ".join(move) for move in MOVES]),
]


@contextlib.contextmanager
def daemon_on(device: str, state: Path) -> Iterator[Client]:
    """A daemon that computes there, and ends in order: with a snapshot of every session."""
    flags = ["--device", device, "--state-dir", str(state), "--models", str(ROOT / "models")]
    try:
        daemon = DaemonProcess(*flags, "--snapshot-seconds", "0", "--cell-elements", "256")
    except RuntimeError as error:
        if "device not available" not in str(error):
            raise
        pytest.skip(f"there is no device {device}")
    try:
        with Client(daemon.tcp, wait_seconds=60, timeout=60) as client:
            yield client
        assert daemon.stop() == 0, daemon.log[-3000:]
    finally:
        daemon.kill()


def move_to(client: Client, job: Job) -> None:
    """Lets a job go on with the daemon that has its session now."""
    job.client = client
    job.session = client.attach(job.session.name, job.session.token)


def state_of(job: Job) -> tuple[int, bytes]:
    state = job.client.export_state(job.session)
    return state.header.step, state.data.tobytes()


def computes_on_the_cpu(device: str) -> bool:
    return device == "cpu" or device.startswith("apart")


def test_a_snapshot_is_the_same_on_both_and_goes_on_with_the_same_bits(
    tmp_path, optimizer, home, away
):
    with daemon_on(home, tmp_path) as client:
        twin = Job(client, optimizer, "snapshot", "twin")
        twin.run(2 * STEPS)
        twin.close()
        job = Job(client, optimizer, "snapshot", "job")
        job.run(STEPS)
        job.close()
        at_home = client.get_session(job.session.name).device
        moved = state_of(job)
    with daemon_on(away, tmp_path) as client:
        move_to(client, job)
        assert client.get_session(job.session.name).device != at_home
        assert state_of(job) == moved
    with daemon_on(home, tmp_path) as client:
        move_to(client, job)
        assert state_of(job) == moved
        job.run(STEPS)
        job.close()
    assert job.bits() == twin.bits()


def test_steps_on_the_other_device_agree_to_rounding(tmp_path, optimizer, home, away):
    with daemon_on(home, tmp_path) as client:
        twin = Job(client, optimizer, "snapshot", "twin")
        start = [p.copy() for p in twin.parameters]
        twin.run(3 * STEPS)
        twin.close()
        job = Job(client, optimizer, "snapshot", "job")
        job.run(STEPS)
        job.close()
    with daemon_on(away, tmp_path) as client:
        move_to(client, job)
        job.run(STEPS)
        job.close()
        moved = state_of(job)
    with daemon_on(home, tmp_path) as client:
        move_to(client, job)
        assert state_of(job) == moved
        job.run(STEPS)
        job.close()
    if computes_on_the_cpu(home) and computes_on_the_cpu(away):
        assert job.bits() == twin.bits()
    way = np.concatenate([(p - s).ravel() for p, s in zip(twin.parameters, start)])
    apart = np.concatenate([(p - q).ravel() for p, q in zip(job.parameters, twin.parameters)])
    assert np.linalg.norm(way) > 0
    assert np.linalg.norm(apart) <= BOUNDS[optimizer] * np.linalg.norm(way)
