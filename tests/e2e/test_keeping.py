"""Sessions that survive their daemon."""

from __future__ import annotations

import numpy as np
import pytest
from e2e_chaos import Daemons, Job, discover, disturbed, train
from e2e_daemon import DaemonProcess, binary

from mnemosyne_client import Client, InvalidRequestError, SessionLostError


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def test_a_killed_daemon_comes_back_and_nothing_is_lost(state):
    quiet = Daemons(state.with_name("quiet"), [])
    expected = train(quiet.address, "job")
    assert quiet.stop() == 0

    daemons = Daemons(state, [], snapshot_steps="3")
    with Client(daemons.address, wait_seconds=60, timeout=20) as client:
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
    assert len(expected) == len(jobs[0].bits()) * 2


def test_a_resend_of_the_last_step_after_a_restart_gets_the_same_bits(state):
    daemons = Daemons(state, [])
    with Client(daemons.address, wait_seconds=60, timeout=20) as client:
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
    first = DaemonProcess("--state-dir", str(state), "--snapshot-seconds", "0")
    client = Client(first.tcp, wait_seconds=60, timeout=20)
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
    assert daemon.process.wait(timeout=20) == 0
    daemon.stop()


def test_a_second_daemon_is_kept_out_of_the_state_folder(state):
    daemon = DaemonProcess("--state-dir", str(state))
    with pytest.raises(RuntimeError, match="another mnemosyned uses it"):
        DaemonProcess("--state-dir", str(state))
    assert daemon.stop() == 0


def test_without_kept_gradients_the_client_says_that_steps_are_lost(state):
    daemons = Daemons(state, [], snapshot_seconds="0", snapshot_steps="0")
    with Client(daemons.address, wait_seconds=60, timeout=20) as client:
        job = Job(client, "adamw", "snapshot", "job")
        job.stream = client.open_stream(job.session, replay_bytes=0)
        job.run(3)
        daemons.kill()
        with pytest.raises(SessionLostError, match="stands at step 0, this client at 3"):
            job.run(1)
    daemons.stop()


def test_gradients_can_be_kept_in_a_folder(state, tmp_path):
    daemons = Daemons(state, [], snapshot_seconds="0", snapshot_steps="0")
    with Client(daemons.address, wait_seconds=60, timeout=20) as client:
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
    with Client(daemon.tcp, wait_seconds=60, timeout=20) as client:
        jobs = [Job(client, "adamw", "snapshot", f"job{i}") for i in range(12)]
        for _ in range(3):
            for job in jobs:
                job.run(2)
        keeping = client.server_info().state_keeping
        assert keeping.eviction_count > 10 and keeping.load_count > 10
        assert len({job.bits() for job in jobs}) == 1
    assert daemon.stop() == 0


def test_a_full_disk_is_told_and_stops_no_step(state):
    plan = "snapshot.write=error:28"
    daemon = DaemonProcess(
        *("--state-dir", str(state), "--snapshot-steps", "2"),
        environment={"MNEMOSYNE_FAIL_POINTS": plan},
    )
    with Client(daemon.tcp, wait_seconds=60, timeout=20) as client:
        job = Job(client, "adamw", "snapshot", "job")
        for _ in range(200):
            job.run(1)
            if any(event.kind == "durability" for event in job.events):
                break
        assert client.server_info().state_keeping.error == "DISK_FULL"
        assert client.get_session(job.session.name).durability_error == "DISK_FULL"
    assert daemon.stop() == 0


@pytest.mark.skipif("release" in str(binary()), reason="release builds have no fail points")
def test_killed_at_any_fail_point_the_job_ends_with_the_same_bits(tmp_path):
    expected, points = discover(tmp_path / "quiet", tmp_path / "points")
    assert len(points) >= 40, points
    for number, point in enumerate(points):
        plans = [f"{point}=kill@{1 + number % 3}", f"{point}=kill@1"]
        bits, daemons = disturbed(tmp_path / f"state{number}", plans)
        assert bits == expected, (point, "\n".join(daemons.logs)[-5000:])
