"""What surrounds a daemon fails: its clock jumps, its disk is full, its operator restarts it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from e2e_chaos import Daemons, Job
from e2e_daemon import DaemonProcess, wait_until

from mnemosyne_client import Client

DAY = 24 * 3600


class ShiftedClock:
    """The wall clock of the daemons that are started with `environment`."""

    def __init__(self, folder: Path):
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("needs a C compiler")
        library = folder / "shifted_clock.so"
        source = Path(__file__).with_name("shifted_clock.c")
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True
        )
        self._file = folder / "shift"
        self.jump_to(0)
        self.environment = {"LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(self._file)}

    def jump_to(self, seconds: int) -> None:
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))


def log_dates(daemon: DaemonProcess) -> list[str]:
    return [line[:10] for line in daemon._log_file.read_text().splitlines()]


def test_jumps_of_the_clock_change_nothing(tmp_path):
    clock = ShiftedClock(tmp_path)
    daemon = DaemonProcess(
        *("--state-dir", str(tmp_path / "state"), "--models", "none"),
        *("--snapshot-seconds", "1", "--expire-seconds", str(DAY), "--idle-seconds", str(DAY)),
        *("--heartbeat-seconds", "1", "--step-timeout-seconds", "30"),
        environment=clock.environment,
    )
    with Client(daemon.tcp, wait_seconds=60, timeout=60) as client:
        twin = Job(client, "adamw", "snapshot", "twin")
        twin.run(20)
        twin.close()
        job = Job(client, "adamw", "snapshot", "job")
        for jump in (0, 400 * DAY, -400 * DAY, 3, -3600):
            clock.jump_to(jump)
            known = set(log_dates(daemon))
            job.run(4)
            job.stream.snapshot()
            if abs(jump) > DAY:  # The daemon's clock has jumped.
                wait_until(lambda k=known: not k.issuperset(log_dates(daemon)), 60)
        assert "reconnected" not in [event.kind for event in job.events]
        assert job.bits() == twin.bits()
        # Nobody has expired or was sent away by a jump.
        assert all(session.resident for session in client.list_sessions())
        assert len(list(client.list_sessions())) == 2
        clock.jump_to(-400 * DAY)
        job.run(1)
        job.close()
    assert daemon.stop() == 0

    again = DaemonProcess("--state-dir", str(tmp_path / "state"), "--models", "none")
    with Client(again.tcp) as client:
        assert {s.last_step for s in client.list_sessions()} == {20, 21}
    assert again.stop() == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 KiB, where it may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "none", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("durability", ["snapshot", "step"])
def test_a_full_disk_stops_no_step_and_is_left_behind(small_disk, durability):
    state = small_disk / "state"
    ballast = small_disk / "ballast"
    flags = ("--state-dir", str(state), "--models", "none", "--snapshot-steps", "3")
    daemon = DaemonProcess(*flags, "--snapshot-seconds", "1")
    with Client(daemon.tcp, wait_seconds=60, timeout=60) as client:
        job = Job(client, "adamw", durability, "job")
        job.run(5)

        def is_full() -> bool:
            with ballast.open("ab") as file:  # Also with what the daemon has removed meanwhile.
                while os.statvfs(small_disk).f_bavail:
                    file.write(b"x" * 4096)
                    file.flush()
            job.run(1)
            return client.get_session(job.session.name).durability_error == "DISK_FULL"

        wait_until(is_full, 60)
        assert client.server_info().state_keeping.error == "DISK_FULL"
        wait_until(lambda: is_full() and job.events, 60)
        assert ("durability", 0) in [(event.kind, event.first_step) for event in job.events]

        ballast.unlink()
        wait_until(lambda: not client.server_info().state_keeping.error, 60)
        job.run(1)
        wait_until(lambda: not client.get_session(job.session.name).durability_error, 60)
        daemon.kill()
        daemon = DaemonProcess(*flags, listen=daemon.tcp)
        job.run(20)
        job.close()
        twin = Job(client, "adamw", durability, "twin")
        twin.run(job.step)
        assert job.bits() == twin.bits()
        twin.close()
    assert daemon.stop() == 0


def test_a_rolling_restart_costs_a_pause(tmp_path):
    daemons = Daemons(tmp_path / "state", snapshot_seconds="0", snapshot_steps="0")
    with Client(daemons.address, wait_seconds=60, timeout=60) as client:
        # Each is a process of its own in life, and has a client of its own here.
        clients = [Client(daemons.address, wait_seconds=60, timeout=60) for _ in range(3)]
        jobs = [Job(c, "adamw", "snapshot", f"job{i}") for i, c in enumerate(clients)]
        done = threading.Event()
        failures = []

        def run(job):
            try:
                while not done.wait(0.005):
                    job.run(1)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for _ in range(3):
            before = [job.step for job in jobs]
            wait_until(lambda b=before: all(j.step > s for j, s in zip(jobs, b)), 60)
            daemons.restart()
        before = [job.step for job in jobs]
        wait_until(lambda: all(j.step > s for j, s in zip(jobs, before)), 60)
        done.set()
        for thread in threads:
            thread.join(60)
        assert not failures, failures
        assert daemons.deaths == 3
        # Every snapshot of an orderly end had every step that was answered.
        assert {event.kind for job in jobs for event in job.events} == {"reconnected"}
        longest = max(jobs, key=lambda job: job.step)
        twin = Job(client, "adamw", "snapshot", "twin")
        twin.run(longest.step)
        assert twin.bits() == longest.bits()
        for each in clients:
            each.close()
    assert daemons.stop() == 0


def test_clients_that_do_nothing_do_not_hold_the_end_up(tmp_path):
    daemon = DaemonProcess(
        *("--state-dir", str(tmp_path / "state"), "--models", "none", "--drain-seconds", "2")
    )
    with Client(daemon.tcp, wait_seconds=0, timeout=60) as client:
        idle = Job(client, "adamw", "snapshot", "idle")
        idle.run(2)
        half = Job(client, "adamw", "snapshot", "half")
        half.run(2)
        half.stream.begin_early()  # A step that will never be complete.
        started = time.monotonic()
        assert daemon.stop() == 0
        # The end of the calls, gRPC's grace, and little more.
        assert time.monotonic() - started < 60
    again = DaemonProcess("--state-dir", str(tmp_path / "state"), "--models", "none")
    with Client(again.tcp) as client:
        assert {session.last_step for session in client.list_sessions()} == {2}
    assert again.stop() == 0


def test_a_snapshot_damaged_anywhere_is_passed_over(tmp_path):
    state = tmp_path / "state"
    flags = ("--state-dir", str(state), "--models", "none", "--snapshot-seconds", "0")
    daemon = DaemonProcess(*flags)
    with Client(daemon.tcp, wait_seconds=60, timeout=60) as client:
        job = Job(client, "adamw", "snapshot", "job")
        states = {}
        for _ in range(2):
            job.run(3)
            job.stream.snapshot()
            states[job.step] = client.export_state(job.session).data.tobytes()
        job.close()
        folder = state / "sessions" / job.session.name.split("/")[1]
        newest = sorted(folder.glob("0*.safetensors"))[-1]
        whole = newest.read_bytes()
        rng = random.Random(1)
        places = [0, 7, 8, 100, len(whole) // 2, len(whole) - 1]
        for place in [*places, *(rng.randrange(len(whole)) for _ in range(3)), None]:
            daemon.kill()
            for old in folder.glob("*.rotten"):
                old.unlink()
            damaged = bytearray(whole)
            if place is not None:
                damaged[place] ^= 1 << rng.randrange(8)
            newest.write_bytes(whole[:place] if place and place % 2 else damaged)
            daemon = DaemonProcess(*flags, listen=daemon.tcp)
            stands = 6 if place is None else 3
            exported = client.export_state(job.session)
            assert exported.header.step == stands, place
            assert exported.data.tobytes() == states[stands]
            assert bool(list(folder.glob("*.rotten"))) == (place is not None)
    assert daemon.stop() == 0
