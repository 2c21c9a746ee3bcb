"""What a daemon does with a real GPU; skipped where there is none.

What it does with one that fails is tested on a device of the tests, too.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_chaos import Job
from e2e_daemon import ROOT, DaemonProcess

from mnemosyne_client import Client

JOBS = 3
STEPS = 12
# Gradients and tables that reach the GPU before it traps: some steps of each job.
UPLOADS = 20


@contextlib.contextmanager
def daemon_on(device: str, state: Path, end: str = "stopped") -> Iterator[Client]:
    """A daemon that computes there, and logs `end` when it ends in order."""
    flags = ["--device", device, "--state-dir", str(state), "--models", str(ROOT / "models")]
    try:
        daemon = DaemonProcess(*flags, "--cell-elements", "256")
    except RuntimeError as error:
        if "device not available" in str(error) or "unknown device" in str(error):
            pytest.skip(f"this machine or this build has no device {device}")
        raise
    try:
        with Client(daemon.tcp, wait_seconds=60, timeout=60) as client:
            yield client
        assert daemon.stop() == 0, daemon.log[-3000:]
        assert end in daemon.log.splitlines()[-1]
    finally:
        daemon.kill()


def train(client: Client) -> list[Job]:
    """Jobs that log every step, in turns."""
    jobs = [Job(client, "adamw", "step", f"job-{i}") for i in range(JOBS)]
    for _ in range(STEPS):
        for job in jobs:
            job.run(1)
    return jobs


@pytest.mark.parametrize("broken", ["failing", "trapping"])
def test_the_sessions_of_a_gpu_that_fails_go_on_elsewhere(tmp_path, broken):
    with daemon_on("apart:64", tmp_path / "sound") as client:
        expected = [job.bits() for job in train(client)]
    devices, end = f"{broken}:{UPLOADS},apart:64", "a device has failed, exiting without it"
    with daemon_on(devices, tmp_path / "broken", end) as client:
        before = client.server_info()
        assert [device.fault for device in before.devices] == ["", ""]
        jobs = train(client)
        assert [job.bits() for job in jobs] == expected
        gpu, other = client.server_info().devices
        assert "failed" in gpu.fault
        assert gpu.step_count > 0
        assert other.fault == ""
        assert other.step_count > 0
        for job in jobs:
            assert client.get_session(job.session.name).device == other.name
        late = Job(client, "adamw", "snapshot", "late")
        late.run(3)
        late.close()
        for job in jobs:
            job.close()


def test_small_sessions_that_step_at_once_share_calls(tmp_path):
    with daemon_on("cuda:0", tmp_path) as client:
        jobs = [Job(client, "mnemosyne", "snapshot", f"job-{i}") for i in range(16)]
        threads = [threading.Thread(target=job.run, args=(40,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(job.step == 40 for job in jobs)
        alone = Job(client, "mnemosyne", "snapshot", "alone")
        alone.run(40)
        assert {job.bits() for job in jobs} == {alone.bits()}
        (device,) = client.server_info().devices
        assert device.step_count == 17 * 40
        assert sum(device.share_counts[1:]) > 0
        for job in [*jobs, alone]:
            job.close()


# By optimizer: the largest distance, relative to the norm of all parameters, of what a GPU has
# after 1,000 steps from what the CPU has that saw the same gradients.
FAR = {
    "sgd": 0,
    "adam": 0,
    "adamw": 0,
    "lion": 0,
    "mnemosyne": 1e-5,
    "mnemosyne of 16 bits": 1e-3,
    "mnemosyne-coordinate": 1e-5,
    "lstm": 1e-6,
    "rnnprop": 1e-6,
}


# A device of the tests that is the CPU with memory of its own has the CPU's bits.
@pytest.mark.parametrize("device", ["apart:64", "cuda:0"])
@pytest.mark.parametrize("case", FAR)
def test_follows_the_cpu_over_a_training(tmp_path, record_property, device, case):
    torch = pytest.importorskip("torch")
    pytest.importorskip("sklearn.datasets")
    from digits_net import load_digits, train_both

    from mnemosyne_client.torch import RemoteOptimizer

    name, _, sixteen = case.partition(" of ")
    steps = 100 if device == "apart:64" else 1000

    def remote_of(client):
        precision = "half" if sixteen else "full"
        return lambda params: RemoteOptimizer(params, client, name, state_precision=precision)

    with (
        daemon_on(device, tmp_path / "device") as client,
        daemon_on("cpu", tmp_path / "cpu") as on_cpu,
    ):
        pairs = zip(*train_both(remote_of(client), remote_of(on_cpu), load_digits(), steps))
        there, here = (torch.cat([p.detach().flatten() for p in side]) for side in zip(*pairs))
    distance = float((there - here).norm() / here.norm())
    record_property("distance", distance)
    print(json.dumps({"device": device, "optimizer": case, "distance": distance}))
    assert distance <= (0 if device == "apart:64" else FAR[case])
