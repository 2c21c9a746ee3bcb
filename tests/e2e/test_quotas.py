"""The bounds of a tenant and of all: each is met by a daemon, and says what would fit and when."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import grpc
import numpy
import pytest
from e2e_daemon import wait_until
from test_security import make_token

from mnemosyne_client import Client, Credentials, MnemosyneError, ResourceExhaustedError, messages

ELEMENTS = 1 << 16
STATE_BYTES = 8 * ELEMENTS  # AdamW's two moments in float32.
VALUES = numpy.ones(ELEMENTS, numpy.float32)
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


class Tenants:
    """A daemon with tenants `greedy`, which has the bounds, and `other`, which has none."""

    def __init__(self, own_daemon, folder: Path, limits: str, *flags: str):
        self.tokens = {}
        lines = []
        for tenant in ("greedy", "other"):
            self.tokens[tenant], line = make_token(tenant)
            lines.append(line)
        if limits:
            lines.append(f"limit tenant=greedy {limits}")
        access = folder / "access"
        access.write_text("\n".join(lines) + "\n")
        self.daemon = own_daemon("--access", str(access), "--models", "none", *flags)

    def client(self, tenant: str = "greedy", wait_seconds: float = 0) -> Client:
        credentials = Credentials(access_token=self.tokens[tenant])
        return Client(
            self.daemon.tcp, credentials=credentials, timeout=60, wait_seconds=wait_seconds
        )


@pytest.fixture
def tenants(own_daemon, tmp_path):
    """Makes Tenants."""
    return lambda limits, *flags: Tenants(own_daemon, tmp_path, limits, *flags)


def make_session(client, count: int = 1, elements: int = ELEMENTS, **options):
    parameters = [messages.ParameterSpec(name=f"p{i}", shape=[elements]) for i in range(count)]
    return client.create_session("adamw", parameters, **options)


def refused(call) -> ResourceExhaustedError:
    """Returns the error of a call that is over a bound."""
    with pytest.raises(ResourceExhaustedError) as caught:
        call()
    return caught.value


def assert_limit(error: MnemosyneError, limit: int, words: str) -> None:
    """Checks that a refusal says which bound it is, what would fit, and what to do."""
    assert error.reason == "TENANT_LIMIT", error
    assert int(error.metadata["limit"]) == limit
    assert 0 <= int(error.metadata["available"]) <= limit
    for expected in (words, "would fit now", "ask the operator"):
        assert expected in error.message, error.message


@pytest.mark.parametrize(
    ("limits", "limit", "words"),
    [
        ("sessions=2", 2, "delete one"),
        ("parameters=7", 7, "delete sessions"),
        ("memory=2MiB", 2 << 20, "bytes of memory"),
        ("device-memory=1200KiB", 1200 << 10, "device's memory"),
    ],
)
def test_what_sessions_take_is_bounded(tenants, limits, limit, words):
    house = tenants(limits)
    with house.client() as client, house.client("other") as other:
        sessions = []

        def fill():
            for _ in range(10):
                sessions.append(make_session(client, count=3, elements=ELEMENTS // 3))

        error = refused(fill)
        assert_limit(error, limit, words)
        assert "retry_after_ms" not in error.metadata, "no session goes by itself"
        assert len(sessions) == 2
        make_session(other, count=3)

        client.delete_session(sessions.pop())

        make_session(client, count=3, elements=ELEMENTS // 3)
        if not limits.startswith("sessions"):
            never = refused(lambda: make_session(client, count=10, elements=1 << 20))
            assert "use less" in never.message


def retry_delay(error: grpc.RpcError) -> float | None:
    """Returns the seconds of a RetryInfo in the trailers."""
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            for detail in messages.ErrorStatus.FromString(value).details:
                if detail.type_url == RETRY_INFO:
                    delay = messages.RetryInfo.FromString(detail.value).retry_delay
                    return delay.seconds + delay.nanos * 1e-9
    return None


@pytest.mark.parametrize("bound", ["tenant", "all"])
def test_where_idle_sessions_expire_a_refusal_says_when(tenants, tmp_path, bound):
    limits, flags = ("sessions=1", []) if bound == "tenant" else ("", ["--sessions-max", "1"])
    state = ["--state-dir", str(tmp_path / "state"), "--expire-seconds", "10"]
    house = tenants(limits, *state, *flags)
    with house.client() as client:
        session = make_session(client)
        spec = messages.SessionSpec(optimizer="sgd", parameters=[{"name": "p", "shape": [4]}])
        request = messages.CreateSessionRequest(request_id="second", spec=spec)
        with client.open_stream(session) as stream:
            stream.step([VALUES])
            with pytest.raises(grpc.RpcError) as held:
                client.methods.create_session(request, timeout=60)
            assert retry_delay(held.value) is None, "a session in use does not expire"

        # The daemon sees the end of the stream a moment later.
        def told() -> float | None:
            with pytest.raises(grpc.RpcError) as full:
                client.methods.create_session(request, timeout=60)
            assert full.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "delete" in full.value.details()
            return retry_delay(full.value)

        delays = []
        wait_until(lambda: delays.append(told()) or delays[-1] is not None, 10)
        assert 0 < delays[-1] <= 10

        def made() -> bool:
            try:
                client.methods.create_session(request, timeout=60)
            except grpc.RpcError:
                return False
            return True

        wait_until(made, 60)


def test_streams_are_bounded_open_and_idle_ones_too(tenants):
    house = tenants("streams=2", "--stream-idle-seconds", "8")
    with house.client() as client, house.client("other") as other:
        session = make_session(client)
        others = make_session(other)
        open_streams = [client.open_stream(make_session(client)) for _ in range(2)]
        try:
            for stream in open_streams:
                stream.step([VALUES])
            error = refused(lambda: client.export_state(session))
            assert_limit(error, 2, "close some")
            assert error.metadata["retry_after_ms"] == "1000"
            with other.open_stream(others) as stream:
                stream.step([VALUES])

            # Idle streams end, and make room.
            def exported() -> bool:
                try:
                    return bool(client.export_state(session))
                except ResourceExhaustedError:
                    return False

            wait_until(exported, 60)
        finally:
            for stream in open_streams:
                stream.close()


def test_the_daemons_bound_on_streams_says_when_to_ask_again(own_daemon):
    daemon = own_daemon("--streams-max", "1")
    with Client(daemon.tcp, wait_seconds=0, timeout=60) as client:
        session = make_session(client)
        with client.open_stream(make_session(client)) as stream:
            stream.step([VALUES])
            error = refused(lambda: client.export_state(session))
    assert error.reason == "TOO_MANY_STREAMS"
    assert int(error.metadata["retry_after_ms"]) > 0


def test_bytes_of_unary_steps_in_flight_are_bounded(tenants):
    house = tenants(f"inflight={VALUES.nbytes // 2}")
    with house.client() as client:
        session = make_session(client)
        error = refused(lambda: client.step(session, 1, [VALUES]))
        assert_limit(error, VALUES.nbytes // 2, "use less")
        assert "retry_after_ms" not in error.metadata, "it never fits"
        with client.open_stream(session) as stream:
            assert stream.step([VALUES]).step == 1, "a stream has bounds of its own"


def test_unary_steps_in_flight_together_are_bounded(tenants):
    house = tenants(f"inflight={VALUES.nbytes * 3 // 2}")
    with house.client() as client:
        sessions = [make_session(client) for _ in range(4)]
        errors = []
        stop = time.monotonic() + 60

        def run(session):
            number = 1
            while not errors and time.monotonic() < stop:
                try:
                    client.step(session, number, [VALUES])
                    number += 1
                except ResourceExhaustedError as error:
                    errors.append(error)

        threads = [threading.Thread(target=run, args=[s]) for s in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors
    assert_limit(errors[0], VALUES.nbytes * 3 // 2, "wait for the answers")
    assert int(errors[0].metadata["retry_after_ms"]) > 0


def test_steps_per_second_are_bounded_and_clients_wait(tenants):
    house = tenants("steps-per-second=20")
    with house.client(wait_seconds=60) as client, house.client("other") as other:
        session, others = make_session(client), make_session(other)
        begin = time.monotonic()
        with client.open_stream(session) as stream:
            for step in range(1, 41):
                assert stream.step([VALUES]).step == step
        # The first 20 come at once.
        assert time.monotonic() - begin > 0.9
        with other.open_stream(others) as stream:
            for _ in range(40):
                stream.step([VALUES])


@pytest.mark.parametrize("bound", ["tenant", "all"])
def test_the_rate_of_creations_is_bounded(tenants, bound):
    limits, flags = (
        ("sessions-per-minute=2", []) if bound == "tenant" else ("", ["--sessions-per-minute", "2"])
    )
    house = tenants(limits, *flags)
    with house.client() as client:

        def fill():
            for _ in range(5):
                make_session(client)

        error = refused(fill)
    assert error.reason == "RATE_LIMITED"
    assert 0 < int(error.metadata["retry_after_ms"]) <= 30_000
    assert "try again in" in error.message


def disk_bytes(folder: Path) -> int:
    """Returns what files have; one that has several names counts once."""
    sizes = {}
    for path in (folder / "sessions").rglob("*"):
        try:
            info = path.stat()
        except FileNotFoundError:
            continue
        if path.is_file():
            sizes[info.st_ino] = info.st_size
    return sum(sizes.values())


def test_bytes_on_the_disk_are_bounded(tenants, tmp_path):
    limit = 3 << 20
    state = tmp_path / "state"
    house = tenants("disk=3MiB", "--state-dir", str(state), "--snapshot-seconds", "0")
    with house.client() as client, house.client("other") as other:
        sessions = []

        def fill():
            for _ in range(10):
                sessions.append(make_session(client))
                with client.open_stream(sessions[-1]) as stream:
                    stream.step([VALUES])
                client.snapshot_session(sessions[-1])

        error = refused(fill)
        assert_limit(error, limit, "on the disk")
        assert int(error.metadata["available"]) < STATE_BYTES
        assert len(sessions) > 3
        assert disk_bytes(state) <= limit
        # The session goes on, and says that its steps are in memory alone.
        with client.open_stream(sessions[-1]) as stream:
            stream.step([VALUES])
        shown = client.get_session(sessions[-1].name)
        assert shown.durability_error == "TENANT_LIMIT" and shown.last_durable_step == 0

        mine = make_session(other)
        with other.open_stream(mine) as stream:
            stream.step([VALUES])
        other.snapshot_session(mine)

        client.delete_session(sessions[0])
        client.snapshot_session(sessions[-1])
        assert client.get_session(sessions[-1].name).durability_error == ""


@pytest.mark.parametrize("bound", ["tenant", "all"])
def test_logs_of_steps_count_on_the_disk_and_leave_room_for_the_snapshot(tenants, tmp_path, bound):
    limit = 4 << 20
    limits, flags = ("disk=4MiB", []) if bound == "tenant" else ("", ["--state-max", "4MiB"])
    state = tmp_path / "state"
    keep = ["--state-dir", str(state), "--snapshot-seconds", "0", "--snapshots-kept", "1"]
    house = tenants(limits, *keep, *flags)
    with house.client() as client:
        session = make_session(client, durability="step")
        most = 0
        told = []
        on_event = lambda event: told.append(event.message)  # noqa: E731
        with client.open_stream(session, on_event=on_event) as stream:

            def step() -> None:
                nonlocal most
                stream.step([VALUES])
                most = max(most, disk_bytes(state))

            step()
            assert not told
            for _ in range(2 * limit // VALUES.nbytes):
                step()
            expected = "TENANT_LIMIT" if bound == "tenant" else "DISK_FULL"
            assert any(expected in text for text in told), told
            assert limit / 2 < most <= limit

            # A snapshot, which still fits, takes the log's place, and steps are durable again. One
            # that is written while steps go on may leave no room for their log; the next one does.
            def durable() -> bool:
                step()
                shown = client.get_session(session.name)
                return not shown.durability_error and shown.last_durable_step == shown.last_step

            wait_until(durable, 60)
            assert most <= limit


def test_a_message_above_the_bound_ends_its_call_alone(own_daemon):
    daemon = own_daemon("--message-max", "2MiB", "--cell-elements", "65536")
    with Client(daemon.tcp, wait_seconds=0, timeout=60) as client:
        session = make_session(client)
        request = messages.StepRequest(
            session=session.name,
            token=session.token,
            begin=messages.StepBegin(step=1),
            chunks=[messages.TensorChunk(parameter=0, payload=bytes(3 << 20))],
        )
        with pytest.raises(grpc.RpcError) as large:
            client.methods.step(request, timeout=60)
        assert large.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with client.open_stream(session) as stream:
            assert stream.step([VALUES]).step == 1


def test_metadata_above_the_bound_is_refused(own_daemon):
    daemon = own_daemon()
    with Client(daemon.tcp, wait_seconds=20, timeout=60) as client:
        with pytest.raises(grpc.RpcError) as large:
            client.methods.get_server_info(
                messages.GetServerInfoRequest(), timeout=60, metadata=[("x-big", "x" * 20_000)]
            )
        assert large.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert client.server_info().version
