"""A job that goes through everything a session can do, and daemons that die under it."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import numpy as np
from e2e_daemon import DaemonProcess

from mnemosyne_client import Client, SupersededError, messages

m = messages
SHAPES = [(17, 9), (300,), ()]
STEPS = 24
FLAGS = {
    "--cell-elements": "256",
    "--threads": "1",
    "--models": "none",
    "--memory-max": "1GiB",
    "--snapshot-steps": "5",
    "--snapshot-seconds": "1",
    "--drain-seconds": "3",
}
# What a daemon is given beside the fail point.
POINTS = "MNEMOSYNE_FAIL_POINTS"
POINT_LOG = "MNEMOSYNE_FAIL_POINT_LOG"
START_TRIES = 5


class Daemons:
    """A daemon on one address and one state folder that is started again whenever it dies."""

    def __init__(self, state: Path, plans: list[str], log: Path | None = None, **flags: str):
        """Starts the first; the n-th gets `plans[n]` as its fail points, later ones none.

        Flags are named as `snapshot_steps="3"`, in place of those of FLAGS.
        """
        merged = {**FLAGS, "--state-dir": str(state)}
        merged |= {"--" + name.replace("_", "-"): value for name, value in flags.items()}
        self._flags = [part for pair in merged.items() for part in pair]
        self._plans = list(plans)
        self._log = log
        self.deaths = 0
        self.logs: list[str] = []
        self._stopped = threading.Event()
        self._listen = "127.0.0.1:0"
        self._daemon = self._start()
        self.address = self._listen = self._daemon.tcp
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def stop(self) -> int:
        """Ends the last daemon in order; returns its exit code."""
        self._stopped.set()
        self._watcher.join()
        code = self._daemon.stop()
        self.logs.append(self._daemon.log)
        return code

    def kill(self) -> None:
        """Lets the daemon of now die, wherever it is."""
        self._daemon.process.kill()

    def _start(self) -> DaemonProcess:
        environment = {}
        if self._log is not None:
            environment[POINT_LOG] = str(self._log)
        for _ in range(START_TRIES):
            environment[POINTS] = self._plans.pop(0) if self._plans else ""
            try:
                return DaemonProcess(*self._flags, listen=self._listen, environment=environment)
            except RuntimeError:  # It died while it started.
                self.deaths += 1
        raise AssertionError("the daemon does not start")

    def _watch(self) -> None:
        while not self._stopped.wait(0.02):
            if self._daemon.process.poll() is None:
                continue
            self.deaths += 1
            self._daemon.kill()
            self.logs.append(self._daemon.log)
            self._daemon = self._start()


class Job:
    """Trains with one session; its parameters are a function of its steps alone."""

    def __init__(self, client: Client, optimizer: str, durability: str, request_id: str):
        self.client = client
        parameters = [m.ParameterSpec(name=f"p{i}", shape=s) for i, s in enumerate(SHAPES)]
        self.session = client.create_session(
            optimizer,
            parameters,
            hyperparameters={"learning_rate": 0.05},
            request_id=request_id,
            durability=durability,
        )
        self.parameters = [np.ones(shape, np.float32) for shape in SHAPES]
        self.step = 0
        self.events = []
        self.stream = None

    def run(self, steps: int) -> None:
        """Takes steps whose gradients depend on the parameters."""
        for _ in range(steps):
            if self.stream is None:
                self.stream = self.client.open_stream(self.session, on_event=self.events.append)
            self.step += 1
            rng = np.random.default_rng(self.step)
            gradients = [(p + rng.normal(size=p.shape)).astype(np.float32) for p in self.parameters]
            absent = self.step % 7 == 0
            if absent:
                gradients[1] = None
            result = self.stream.step(gradients)
            assert result.step == self.step
            for p, update in zip(self.parameters, result.updates):
                if update is not None:
                    p *= np.float32(1 - update.decay)
                    p += update.values * np.float32(update.scale)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def bits(self) -> bytes:
        return b"".join(p.tobytes() for p in self.parameters)


def train(address: str, tag: str) -> bytes:
    """Two jobs side by side, one of each durability, with a checkpoint, a rewind and an import."""
    with Client(address, wait_seconds=60, timeout=20) as client:
        jobs = [
            Job(client, "adamw", "snapshot", f"{tag}-0"),
            Job(client, "lion", "step", f"{tag}-1"),
        ]
        for job in jobs:
            job.run(8)
        for job in jobs:  # A checkpoint of the trainer, with a pinned snapshot.
            assert job.stream.snapshot("checkpoint") == 8
            job.checkpoint = [p.copy() for p in job.parameters]
            job.run(4)
        for job in jobs:  # The trainer crashes and goes back.
            job.close()
            assert client.rewind_session(job.session, "checkpoint").last_step == 8
            job.parameters, job.step = [p.copy() for p in job.checkpoint], 8
            job.run(6)
        for job in jobs:  # The state moves into itself.
            state = job.stream.export_state()
            job.close()
            assert state.header.step == 14
            client.import_state(job.session, state)
            job.run(STEPS - 14)
        bits = b"".join(job.bits() for job in jobs)
        for job in jobs:
            job.close()
            client.delete_session(job.session)
        return bits


def disturbed(state: Path, plans: list[str]) -> tuple[bytes, Daemons]:
    """Trains under daemons with these fail points; returns the final bits."""
    daemons = Daemons(state, plans)
    try:
        bits = train(daemons.address, "job")
    finally:
        with contextlib.suppress(Exception):
            code = daemons.stop()
    if code not in (0, -9):
        raise AssertionError(f"exit code {code}\n{daemons.logs[-1][-3000:]}")
    return bits, daemons


def discover(state: Path, log: Path) -> tuple[bytes, list[str]]:
    """Trains undisturbed but for one restart; returns the bits and all points that were passed."""
    daemons = Daemons(state, [], log)
    expected = train(daemons.address, "job")
    # Some points are only passed when there is something to load.
    with Client(daemons.address) as client:
        for durability in ("snapshot", "step"):
            job = Job(client, "adamw", durability, f"left-{durability}")
            job.run(7)
        daemons.kill()
        job.run(1)
        job.close()
    time.sleep(0.1)
    assert daemons.stop() == 0, daemons.logs[-1][-3000:]
    return expected, sorted(set(log.read_text().split()))


__all__ = ["Daemons", "Job", "SupersededError", "discover", "disturbed", "train"]
