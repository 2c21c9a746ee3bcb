"""Clients and daemons that go away, and come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from e2e_daemon import wait_until
from e2e_stream import RawStream

from mnemosyne_client import (
    Client,
    InvalidRequestError,
    SessionLostError,
    SupersededError,
    UnavailableError,
    messages,
)

m = messages
SHAPES = [(40, 30), (7,), ()]


@pytest.fixture
def session(client):
    session = make_session(client)
    yield session
    client.delete_session(session)


def make_session(client, **options):
    parameters = [m.ParameterSpec(name=f"p{i}", shape=s) for i, s in enumerate(SHAPES)]
    return client.create_session("adamw", parameters, **options)


def gradients(seed: int):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]


def values_of(result):
    return [(u.values.tobytes(), u.scale, u.decay) for u in result.updates]


def test_a_lost_answer_is_fetched_with_the_same_bits(client, session):
    with client.open_stream(session) as stream:
        for step in range(1, 4):
            stream.step(gradients(step))
        first = stream.step(gradients(4))
        # As if the answer to step 4 had been lost with the connection.
        stream._link.last_step = 3
        stream._link.drop()
        again = stream.step(gradients(4))

    assert not first.statistics.replayed and again.statistics.replayed
    assert values_of(first) == values_of(again)
    assert client.get_session(session.name).last_step == 4


def test_a_newer_stream_takes_the_session_over(client, session):
    older = client.open_stream(session)
    older.step(gradients(1))
    newer = client.open_stream(session)
    newer.step(gradients(2))

    for _ in range(2):
        with pytest.raises(SupersededError) as caught:
            older.step(gradients(2))
    assert caught.value.reason == "SUPERSEDED" and caught.value.code == "ABORTED"
    assert newer.step(gradients(3)).step == 3
    assert newer.opened.epoch == older.opened.epoch + 1


def test_the_holder_of_a_session_is_seen(client, session):
    stream = client.open_stream(session)
    assert client.get_session(session.name).streaming

    stream.close()
    wait_until(lambda: not client.get_session(session.name).streaming, 60)


def test_a_deleted_session_ends_its_stream(client):
    session = make_session(client)
    stream = client.open_stream(session)
    stream.step(gradients(1))
    client.delete_session(session)

    with pytest.raises(SessionLostError):
        stream.step(gradients(2))


HALF_STEP = """
import sys
import numpy as np
from mnemosyne_client import Client, messages as m

client = Client(sys.argv[1])
session = client.attach(sys.argv[2], sys.argv[3])
stream = client.open_stream(session)
stream.step([np.full(s, 0.1, np.float32) for s in session.shapes])
half = m.TensorChunk(payload=bytes(4 * stream.opened.cell_elements))
stream._link._connection.send([m.OptimizeRequest(begin=m.StepBegin(step=2), chunks=[half])])
print("in the middle of step 2", flush=True)
sys.stdin.read()
"""


def test_a_client_killed_in_the_middle_of_a_step_leaves_no_trace(client, session):
    child = subprocess.Popen(
        [sys.executable, "-c", HALF_STEP, client.address, session.name, session.token],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    wait_until(lambda: not client.get_session(session.name).streaming, 60)

    assert client.get_session(session.name).last_step == 1
    with client.open_stream(session) as stream:
        assert stream.last_step == 1
        assert not stream.step(gradients(2)).statistics.replayed


def test_a_client_that_falls_silent_in_a_step_is_cut_off(own_daemon):
    daemon = own_daemon("--step-timeout-seconds", "2", "--heartbeat-seconds", "1")
    with Client(daemon.tcp) as client:
        session = make_session(client)
        with RawStream(client, session) as stream:
            stream.send(m.OptimizeRequest(begin=m.StepBegin(step=1)))
            with pytest.raises(UnavailableError) as caught:
                stream.receive()
        with client.open_stream(session) as stream:
            assert stream.step(gradients(1)).step == 1

    assert caught.value.reason == "STEP_TIMEOUT" and caught.value.code == "DEADLINE_EXCEEDED"


def test_an_idle_stream_gets_heartbeats(own_daemon):
    daemon = own_daemon("--heartbeat-seconds", "1", "--step-timeout-seconds", "1")
    with Client(daemon.tcp) as client:
        with client.open_stream(make_session(client)) as stream:
            stream.step(gradients(1))
            beat = stream._link._connection.receive(60)
            assert beat.HasField("heartbeat") and beat.heartbeat.last_step == 1
            assert stream.step(gradients(2)).step == 2


def test_a_terminated_daemon_finishes_and_ends_with_0(own_daemon):
    daemon = own_daemon("--drain-seconds", "1")
    client = Client(daemon.tcp, on_unavailable="raise")
    stream = client.open_stream(make_session(client))
    stream.step(gradients(1))

    assert daemon.stop() == 0
    with pytest.raises(UnavailableError):
        stream.step(gradients(2))


def test_a_daemon_that_started_again_has_no_session_and_says_so(own_daemon):
    first = own_daemon()
    client = Client(first.tcp, wait_seconds=60)
    session = make_session(client)
    stream = client.open_stream(session)
    stream.step(gradients(1))
    state = client.export_state(session)
    first.kill()
    own_daemon(listen=first.tcp)

    with pytest.raises(SessionLostError) as caught:
        stream.step(gradients(2))
    assert caught.value.reason == "SESSION_NOT_FOUND"

    session = make_session(client)
    client.import_state(session, state)
    assert client.open_stream(session).step(gradients(2)).step == 2


def test_a_state_goes_on_with_the_same_bits_on_another_daemon(client, session, own_daemon):
    with client.open_stream(session) as stream:
        for step in range(1, 6):
            stream.step(gradients(step))
        state = client.export_state(session)
        ours = [values_of(stream.step(gradients(step))) for step in range(6, 9)]
    with Client(own_daemon("--threads", "1").unix) as other:
        copy = make_session(other)
        other.import_state(copy, state)
        with other.open_stream(copy) as stream:
            theirs = [values_of(stream.step(gradients(step))) for step in range(6, 9)]

    assert ours == theirs


def test_an_import_supersedes_the_stream_and_goes_back(client, session):
    stream = client.open_stream(session)
    stream.step(gradients(1))
    state = client.export_state(session)
    second = values_of(stream.step(gradients(2)))
    client.import_state(session, state)

    with pytest.raises(SupersededError):
        stream.step(gradients(3))
    with client.open_stream(session) as again:
        assert again.last_step == 1
        assert values_of(again.step(gradients(2))) == second


def test_a_broken_import_changes_nothing(client, session):
    with client.open_stream(session) as stream:
        stream.step(gradients(1))
    state = client.export_state(session)
    expected = state.data.copy()

    class Damaged(type(state)):
        def parts(self):
            *parts, end = super().parts()
            end.end.crc32c ^= 1
            yield from (*parts, end)

    class Cut(type(state)):
        def parts(self):
            yield from list(super().parts())[:-1]

    state.header.step = 40
    for broken in (Damaged, Cut):
        with pytest.raises(Exception) as caught:
            client.import_state(session, broken(state.header, state.data + 1))
        assert caught.value.reason, broken
    wrong = make_session(client, optimizer_version="1")
    state.header.spec.parameters[0].shape[0] += 1
    with pytest.raises(InvalidRequestError) as caught:
        client.import_state(wrong, state)
    client.delete_session(wrong)

    assert caught.value.reason == "STATE_MISMATCH"
    now = client.export_state(session)
    assert now.header.step == 1
    np.testing.assert_array_equal(now.data, expected)


def test_single_steps_have_the_bits_of_a_stream(client, session):
    with client.open_stream(session) as stream:
        streamed = [values_of(stream.step(gradients(step))) for step in (1, 2)]
    other = make_session(client)
    epoch, single = 0, []
    for step in (1, 2):
        result, epoch = client.step(other, step, gradients(step), epoch=epoch)
        single.append(values_of(result))
    replay, _ = client.step(other, 2, gradients(2), epoch=epoch)
    with pytest.raises(InvalidRequestError) as caught:
        client.step(other, 2, gradients(3), epoch=epoch)
    client.delete_session(other)

    assert single == streamed
    assert replay.statistics.replayed and values_of(replay) == single[1]
    assert caught.value.reason == "RESEND_DIFFERS"


def test_a_single_step_does_not_take_over_with_an_old_epoch(client, session):
    _, epoch = client.step(session, 1, gradients(1))
    with client.open_stream(session):
        with pytest.raises(SupersededError):
            client.step(session, 2, gradients(2), epoch=epoch)


def pause(pid: int) -> None:
    """Stops a process; returns when none of its threads runs any more."""
    os.kill(pid, signal.SIGSTOP)

    def is_stopped() -> bool:
        threads = Path(f"/proc/{pid}/task").iterdir()
        return all("State:\tT" in (thread / "status").read_text() for thread in threads)

    wait_until(is_stopped, 60)


def test_a_paused_daemon_is_waited_for(own_daemon):
    daemon = own_daemon("--heartbeat-seconds", "1")
    with Client(daemon.tcp, timeout=60, wait_seconds=60) as client:
        stream = client.open_stream(make_session(client))
        stream.step(gradients(1))
        client._caller.timeout = 3
        pause(daemon.process.pid)
        resumed = []
        original = stream._link.drop

        def resume_then_drop():
            if not resumed:
                resumed.append(os.kill(daemon.process.pid, signal.SIGCONT))
            original()

        stream._link.drop = resume_then_drop
        assert stream.step(gradients(2)).step == 2
        assert resumed and client.get_session(stream.session.name).last_step == 2
