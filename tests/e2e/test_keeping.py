"""Sessions that survive their daemon."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
from chaos_report import run_round
from e2e_chaos import APART, Daemons, Job, discover
from e2e_daemon import DaemonProcess, binary, wait_until

from mnemosyne_client import (
    Client,
    InvalidRequestError,
    SessionLostError,
    UnavailableError,
)

needs_fail_points = pytest.mark.skipif(
    "release" in str(binary()), reason="release builds have no fail points"
)


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def test_a_killed_daemon_comes_back_and_nothing_is_lost(state):
    daemons = Daemons(state, snapshot_steps="3")
    with Client(daemons.address, wait_seconds=60, timeout=60) as client:
        jobs = [Job(client, "adamw", "snapshot", "a"), Job(client, "lion", "step", "b")]
        for _ in range(6):
            for job in jobs:
                job.run(4)
            daemons.kill()
        reference = [Job(client, "adamw", "snapshot", "c"), Job(client, "lion", "step", "d")]
        for job, twin in zip(jobs, reference):
            twin.run(24)
            assert job.bits() == twin.bits()
            assert "reconnected" in [event.kind for event in job.events]
        # A logged step needs no help of the client.
        assert "resent" not in [event.kind for event in jobs[1].events]
    assert daemons.stop() == 0


def test_a_resend_of_the_last_step_after_a_restart_gets_the_same_bits(state):
    daemons = Daemons(state)
    with Client(daemons.address, wait_seconds=60, timeout=60) as client:
        for durability in ("snapshot", "step"):
            job = Job(client, "adamw", durability, durability)
            job.run(3)
            rng = np.random.default_rng(0)
            gradients = [rng.normal(size=s).astype(np.float32) for s in job.session.shapes]
            first = job.stream.step(gradients)
            client.snapshot_session(job.session)
            job.stream._link.last_step = 3
            job.stream._link.drop()
            daemons.kill()
            again = job.stream.step(gradients)
            assert again.statistics.replayed
            for a, b in zip(first.updates, again.updates):
                assert a.values.tobytes() == b.values.tobytes() and a.scale == b.scale
    assert daemons.stop() == 0


def test_a_terminated_daemon_keeps_every_step(state):
    # The client leaves its stream open until the end of the daemon's patience.
    first = DaemonProcess(
        *("--state-dir", str(state), "--snapshot-seconds", "0", "--drain-seconds", "1")
    )
    client = Client(first.tcp, wait_seconds=60, timeout=60)
    job = Job(client, "adamw", "snapshot", "job")
    job.run(5)
    assert client.get_session(job.session.name).last_durable_step == 0
    assert first.stop() == 0

    second = DaemonProcess("--state-dir", str(state), listen=first.tcp)
    details = client.get_session(job.session.name)
    assert details.last_step == details.last_durable_step == 5 and not details.resident
    job.run(1)
    assert "resent" not in [event.kind for event in job.events]
    assert client.get_session(job.session.name).resident
    assert second.stop() == 0


def test_drain_by_rpc_is_for_the_socket_alone(state):
    daemon = DaemonProcess("--state-dir", str(state))
    with Client(daemon.tcp) as client, pytest.raises(InvalidRequestError) as caught:
        client.drain()
    assert caught.value.reason == "SOCKET_ONLY"
    with Client(daemon.unix) as client:
        client.drain()
    assert daemon.process.wait(timeout=60) == 0
    daemon.stop()


def test_a_second_daemon_is_kept_out_of_the_state_folder(state):
    daemon = DaemonProcess("--state-dir", str(state))
    with pytest.raises(RuntimeError, match="another mnemosyned uses it"):
        DaemonProcess("--state-dir", str(state))
    assert daemon.stop() == 0


def test_without_kept_gradients_the_client_says_that_steps_are_lost(state):
    daemons = Daemons(state, snapshot_seconds="0", snapshot_steps="0")
    with Client(daemons.address, wait_seconds=60, timeout=60) as client:
        job = Job(client, "adamw", "snapshot", "job")
        job.stream = client.open_stream(job.session, replay_bytes=0)
        job.run(3)
        daemons.kill()
        with pytest.raises(SessionLostError, match="stands at step 0, this client at 3"):
            job.run(1)
    daemons.stop()


def test_gradients_can_be_kept_in_a_folder(state, tmp_path):
    daemons = Daemons(state, snapshot_seconds="0", snapshot_steps="0")
    with Client(daemons.address, wait_seconds=60, timeout=60) as client:
        job = Job(client, "adamw", "snapshot", "job")
        job.stream = client.open_stream(
            job.session, replay_folder=str(tmp_path), on_event=job.events.append
        )
        job.run(9)
        daemons.kill()
        job.run(3)
        twin = Job(client, "adamw", "snapshot", "twin")
        twin.run(12)
        assert job.bits() == twin.bits()
        assert [(e.kind, e.first_step, e.last_step) for e in job.events if e.first_step] == [
            ("resent", 1, 9)
        ]
    assert daemons.stop() == 0


def test_idle_sessions_leave_memory_and_come_back(state):
    # Room for about one of the sessions at a time.
    daemon = DaemonProcess("--state-dir", str(state), "--memory-max", "100KiB")
    with Client(daemon.tcp, wait_seconds=60, timeout=60) as client:
        jobs = [Job(client, "adamw", "snapshot", f"job{i}") for i in range(12)]
        for _ in range(3):
            for job in jobs:
                job.run(2)
        keeping = client.server_info().state_keeping
        assert keeping.eviction_count > 10 and keeping.load_count > 10
        assert len({job.bits() for job in jobs}) == 1
    assert daemon.stop() == 0


def test_a_step_waits_for_memory_that_others_hold(state):
    # Room for one session, whose holder stays in the middle of a step.
    daemon = DaemonProcess("--state-dir", str(state), "--memory-max", "35KiB", "--models", "none")
    with Client(daemon.tcp, wait_seconds=300, timeout=120) as client:
        waiting = Job(client, "adamw", "snapshot", "waiting")
        waiting.run(2)
        waiting.close()
        holding = Job(client, "adamw", "snapshot", "holding")
        holding.run(2)
        assert not client.get_session(waiting.session.name).resident
        gradient = holding.gradients()[0]
        holding.stream.begin_early().add(0, lambda: gradient)
        impatient = Client(daemon.tcp, wait_seconds=0, timeout=120)

        def refused() -> bool:
            try:
                with impatient.open_stream(waiting.session) as stream:
                    stream.settle()
            except UnavailableError as error:
                return error.reason == "MEMORY_EXHAUSTED"
            return False

        wait_until(refused, 120)
        letting_go = threading.Timer(12, holding.close)
        letting_go.start()
        waiting.run(2)
        letting_go.join()
    assert daemon.stop() == 0


@needs_fail_points
def test_idle_sessions_wait_in_host_memory_and_come_back(state):
    daemons = Daemons(state, **APART, memory_max="1MiB", snapshot_seconds="0", snapshot_steps="0")
    with Client(daemons.address, wait_seconds=60, timeout=60) as client:
        jobs = [Job(client, "adamw", ("snapshot", "step")[i % 2], f"job{i}") for i in range(6)]
        for killed in (False, True, False, False):
            for job in jobs:
                job.run(2)
            info = client.server_info()
            device, keeping = info.devices[0], info.state_keeping
            assert 0 < device.reserved_bytes <= device.reserved_bytes_max == 14 << 10
            # Those whose turn comes round have been to host memory, and nobody to the disk.
            assert keeping.park_count >= 4 and keeping.eviction_count == 0
            assert (keeping.resident_count, keeping.parked_count) == (2, 4)
            if killed:
                daemons.kill()
        assert keeping.unpark_count >= 6
        assert len({job.bits() for job in jobs}) == 1
    assert daemons.stop() == 0


@needs_fail_points
def test_sessions_of_a_small_device_and_a_small_host_go_on_to_the_disk(state):
    daemons = Daemons(state, **APART, memory_max="100KiB")
    with Client(daemons.address, wait_seconds=60, timeout=60) as client:
        jobs = [Job(client, "adamw", "snapshot", f"job{i}") for i in range(8)]
        for _ in range(3):
            for job in jobs:
                job.run(2)
        keeping = client.server_info().state_keeping
        assert keeping.park_count and keeping.eviction_count and keeping.load_count
        assert len({job.bits() for job in jobs}) == 1
    assert daemons.stop() == 0


def test_changed_values_survive_a_crash_and_the_disk(state):
    daemons = Daemons(state, snapshot_seconds="0", snapshot_steps="0")
    with Client(daemons.address, wait_seconds=60, timeout=60) as client:
        jobs = [Job(client, "adamw", d, d) for d in ("snapshot", "step")]
        quiet = Job(client, "adamw", "snapshot", "quiet")
        for job in (*jobs, quiet):
            job.run(4)
            job.stream.update_session(hyperparameters={"learning_rate": 0.3})
            if job is not quiet:
                daemons.kill()
            job.run(4)
        assert jobs[0].bits() == jobs[1].bits() == quiet.bits()
        # Told to a session that lies on the disk.
        daemons.restart()
        for job in (*jobs, quiet):
            assert not client.get_session(job.session.name).resident
            client.update_session(job.session, hyperparameters={"learning_rate": 0.01})
            if job is not quiet:
                daemons.kill()
            job.run(4)
        assert jobs[0].bits() == jobs[1].bits() == quiet.bits()
    assert daemons.stop() == 0


@needs_fail_points
def test_a_state_that_was_replaced_never_comes_back(state):
    daemon = DaemonProcess(
        *("--state-dir", str(state), "--models", "none", "--snapshot-seconds", "0"),
        environment={"MNEMOSYNE_FAIL_POINTS": "snapshot.write=error:28"},
    )
    with Client(daemon.tcp, wait_seconds=60, timeout=60) as client:
        source = Job(client, "adamw", "snapshot", "source")
        source.run(3)
        target = Job(client, "adamw", "step", "target")
        target.run(3)
        target.close()
        # The disk is full: the new state cannot be kept, and training goes on with it.
        client.import_state(target.session, client.export_state(source.session))
        assert client.get_session(target.session.name).durability_error == "DISK_FULL"
        target.parameters = [p.copy() for p in source.parameters]
        target.run(2)
        source.run(2)
        assert target.bits() == source.bits()
        assert client.get_session(target.session.name).last_durable_step == 0
        daemon.kill()
        daemon = DaemonProcess("--state-dir", str(state), "--models", "none", listen=daemon.tcp)
        with pytest.raises(SessionLostError):
            client.get_session(target.session.name)
    assert daemon.stop() == 0


@needs_fail_points
def test_a_full_disk_is_told_and_stops_no_step(state):
    plan = "snapshot.write=error:28"
    daemon = DaemonProcess(
        *("--state-dir", str(state), "--snapshot-steps", "2"),
        environment={"MNEMOSYNE_FAIL_POINTS": plan},
    )
    with Client(daemon.tcp, wait_seconds=60, timeout=60) as client:
        job = Job(client, "adamw", "snapshot", "job")

        def told() -> bool:
            job.run(1)
            return any(event.kind == "durability" for event in job.events)

        wait_until(told, 60)
        assert client.server_info().state_keeping.error == "DISK_FULL"
        assert client.get_session(job.session.name).durability_error == "DISK_FULL"
    assert daemon.stop() == 0


@needs_fail_points
def test_killed_at_every_fail_point_the_jobs_end_with_the_same_bits(tmp_path):
    expected, points = discover(tmp_path / "quiet")
    assert len(points) >= 80, points

    happened, deaths, wrong = run_round(tmp_path / "round", points, expected, random.Random(0))

    assert not wrong
    assert deaths >= len(points) // 2
    # Some are passed only if a daemon ends or dies at the right moment.
    missed = set(points) - {what.split()[1] for what in happened}
    assert len(missed) <= 3, missed
