"""Jobs that go through everything a session can do, and daemons that die under them."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from e2e_daemon import DaemonProcess, wait_until

from mnemosyne_client import Client, messages

m = messages
SHAPES = [(17, 9), (300,), ()]
STEPS = 24
FLAGS = {
    "--cell-elements": "256",
    "--threads": "1",
    "--models": "none",
    # Room for three of the four sessions: now and then one is sent to the disk.
    "--memory-max": "75KiB",
    "--snapshot-steps": "5",
    "--snapshot-seconds": "1",
    "--drain-seconds": "3",
}
# A device with a memory of its own, in which two of the four sessions have room: the others wait in
# host memory, and go on to the disk from there.
APART = {"device": "apart:1", "device_memory_max": "14KiB"}
# What a daemon is given beside the fail points.
POINTS = "MNEMOSYNE_FAIL_POINTS"
POINT_LOG = "MNEMOSYNE_FAIL_POINT_LOG"


class Daemons:
    """A daemon on one address and one state folder that is started again whenever it dies.

    Attributes:
        deaths: How many have died.
        met: How often each fail point did what it was armed with.
    """

    def __init__(
        self,
        state: Path,
        armed: dict[str, str] | None = None,
        log: Path | None = None,
        **flags: str,
    ):
        """Starts the first.

        Args:
            state: The state folder.
            armed: What happens at which fail point, such as `kill@2`: once each, under whichever
                daemon comes there first.
            log: A file for the names of points that are passed.
            **flags: Named as `snapshot_steps="3"`, in place of those of FLAGS.
        """
        merged = {**FLAGS, "--state-dir": str(state)}
        merged |= {"--" + name.replace("_", "-"): value for name, value in flags.items()}
        self._flags = [part for pair in merged.items() for part in pair]
        self._armed = dict(armed or {})
        self._log = log or state.with_name(state.name + "-points")
        self.deaths = 0
        self.met: Counter[str] = Counter()
        self.logs: list[str] = []
        self._stopped = threading.Event()
        self._listen = "127.0.0.1:0"
        self._daemon = self._start()
        self.address = self._listen = self._daemon.tcp
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def points(self) -> list[str]:
        """All points that were passed."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return sorted({line for line in lines if not line.startswith("met ")})

    def stop(self) -> int:
        """Ends the last daemon in order; returns its exit code."""
        self._stopped.set()
        self._watcher.join()
        code = self._daemon.stop()
        self.logs.append(self._daemon.log)
        self._disarm()
        return code

    def kill(self) -> None:
        """Lets the daemon of now die, wherever it is."""
        self._daemon.process.kill()

    def restart(self) -> None:
        """Lets the daemon of now end in order; the next one is started."""
        ended = self._daemon
        ended.process.send_signal(signal.SIGTERM)
        wait_until(lambda: ended.process.poll() is not None, 60)

    def _disarm(self) -> None:
        """Takes what has happened out of what daemons are armed with."""
        if not self._log.exists():
            return
        met = Counter(
            line[4:] for line in self._log.read_text().splitlines() if line.startswith("met ")
        )
        self.met = met
        for point in met:
            self._armed.pop(point, None)

    def _start(self) -> DaemonProcess:
        environment = {POINT_LOG: str(self._log)}
        while True:
            self._disarm()
            environment[POINTS] = ";".join(f"{p}={action}" for p, action in self._armed.items())
            try:
                return DaemonProcess(*self._flags, listen=self._listen, environment=environment)
            except RuntimeError:  # It died while it started, at a point that is met by now.
                self.deaths += 1
                if not self._armed:
                    raise

    def _watch(self) -> None:
        while not self._stopped.wait(0.005):
            if self._daemon.process.poll() is None:
                continue
            self.deaths += 1
            self._daemon.kill()
            self.logs.append(self._daemon.log)
            self._daemon = self._start()


class Job:
    """Trains with one session; its parameters are a function of its steps alone."""

    def __init__(
        self,
        client: Client,
        optimizer: str,
        durability: str,
        request_id: str,
        shapes: list[tuple[int, ...]] = SHAPES,
        **options,
    ):
        self.client = client
        self.shapes = shapes
        parameters = [m.ParameterSpec(name=f"p{i}", shape=s) for i, s in enumerate(shapes)]
        self.session = client.create_session(
            optimizer,
            parameters,
            hyperparameters={"learning_rate": 0.05},
            request_id=request_id,
            durability=durability,
        )
        self.parameters = [np.ones(shape, np.float32) for shape in shapes]
        self.step = 0
        self.events = []
        self.stream = None
        self._options = options

    def gradients(self) -> list[np.ndarray | None]:
        """Those of the next step, which depend on the parameters."""
        self.step += 1
        rng = np.random.default_rng(self.step)
        gradients = [(p + rng.normal(size=p.shape)).astype(np.float32) for p in self.parameters]
        return [None if self.step % 7 == 0 and i == 1 else g for i, g in enumerate(gradients)]

    def apply(self, updates) -> None:
        for p, update in zip(self.parameters, updates):
            if update is not None:
                p *= np.float32(1 - update.decay)
                p += update.values * np.float32(update.scale)

    def run(self, steps: int) -> None:
        """Takes steps over a stream."""
        for _ in range(steps):
            if self.stream is None:
                self.stream = self.client.open_stream(
                    self.session, on_event=self.events.append, **self._options
                )
            result = self.stream.step(self.gradients())
            assert result.step == self.step
            self.apply(result.updates)

    def run_unary(self, steps: int) -> None:
        """Takes steps by single calls, whose session has to make each of them durable."""
        for _ in range(steps):
            gradients = self.gradients()
            result, _ = self.client.step(self.session, self.step, gradients)
            self.apply(result.updates)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def bits(self) -> bytes:
        return b"".join(p.tobytes() for p in self.parameters)


def train(address: str, tag: str, restart: Callable[[], None] = lambda: None) -> bytes:
    """Jobs side by side, with a checkpoint, a rewind and an import; returns their final bits.

    Args:
        address: The daemon's.
        tag: In the names of the jobs.
        restart: Called between steps, where a daemon may be restarted in order.
    """
    with Client(address, wait_seconds=60, timeout=60) as client:
        jobs = [
            Job(client, "adamw", "snapshot", f"{tag}-0"),
            Job(client, "lion", "step", f"{tag}-1"),
        ]
        single = Job(client, "sgd", "step", f"{tag}-2")
        idle = Job(client, "adam", "snapshot", f"{tag}-3")
        idle.run(3)
        for job in jobs:
            job.run(8)
        single.run_unary(4)
        for job in jobs:  # A checkpoint of the trainer, with a pinned snapshot.
            assert job.stream.snapshot("checkpoint") == 8
            job.checkpoint = [p.copy() for p in job.parameters]
            job.run(4)
        restart()
        for job in jobs:  # The trainer crashes and goes back.
            job.close()
            assert client.rewind_session(job.session, "checkpoint").last_step == 8
            job.parameters, job.step = [p.copy() for p in job.checkpoint], 8
            job.run(4)
            job.stream.update_session(hyperparameters={"learning_rate": 0.02})
            job.run(2)
        for job in jobs:  # The state moves into itself.
            state = job.stream.export_state()
            job.close()
            assert state.header.step == 14
            client.import_state(job.session, state)
            job.run(STEPS - 14)
        restart()
        single.run_unary(2)
        idle.run(3)
        everyone = [*jobs, single, idle]
        bits = b"".join(job.bits() for job in everyone)
        for job in everyone:
            job.close()
            client.delete_session(job.session)
        return bits


def disturbed(state: Path, armed: dict[str, str], **flags: str) -> tuple[bytes, Daemons]:
    """Trains under daemons with these fail points and flags; returns the final bits."""
    daemons = Daemons(state, armed, **flags)
    try:
        bits = train(daemons.address, "job", daemons.restart)
    except BaseException:
        daemons.stop()
        raise
    code = daemons.stop()
    if code not in (0, -9):
        raise AssertionError(f"exit code {code}\n{daemons.logs[-1][-3000:]}")
    return bits, daemons


def discover(state: Path) -> tuple[bytes, list[str]]:
    """Trains undisturbed but for restarts; returns the bits and all points that were passed."""
    daemons = Daemons(state, **APART)
    expected = train(daemons.address, "job", daemons.restart)
    # Some points are only passed when a daemon had no time to end in order.
    with Client(daemons.address, wait_seconds=60, timeout=60) as client:
        jobs = [
            Job(client, "adamw", durability, f"left-{durability}")
            for durability in ("snapshot", "step")
        ]
        for job in jobs:
            job.run(7)
        daemons.kill()
        for job in jobs:
            job.run(1)
            job.close()
    time.sleep(0.1)
    assert daemons.stop() == 0, daemons.logs[-1][-3000:]
    return expected, daemons.points


def arm(points: list[str], rng: random.Random, delay_share: float = 0.2) -> dict[str, str]:
    """Draws what happens at each point: mostly a kill at one of its first passes."""
    return {
        point: f"delay:{rng.choice((5, 30, 100))}@{rng.randint(1, 3)}"
        if rng.random() < delay_share
        else f"kill@{rng.choice((1, 1, 2, 3, 5))}"
        for point in points
    }


__all__ = ["APART", "Daemons", "Job", "arm", "discover", "disturbed", "train"]
