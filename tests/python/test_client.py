"""Client's calls against the fake daemon."""

from __future__ import annotations

import subprocess
import sys

import grpc
import numpy as np
import pytest

from mnemosyne_client import (
    InvalidRequestError,
    ServerError,
    SessionLostError,
    SupersededError,
    UnavailableError,
    messages,
)
from mnemosyne_client.errors import error_of_call
from mnemosyne_client.session import State

PARAMETERS = [messages.ParameterSpec(name="w", shape=[3, 5]), messages.ParameterSpec(name="b")]


@pytest.fixture
def session(client):
    return client.create_session("adamw", PARAMETERS)


def gradients(seed: int = 0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(3, 5)).astype(np.float32), np.float32(rng.normal())]


def test_tells_what_the_daemon_is(client):
    assert client.server_info().version == "fake"
    assert [o.name for o in client.list_optimizers()] == ["adam", "adamw", "lstm"]


def test_lists_and_reloads_models(client):
    assert [o.name for o in client.list_models()] == ["lstm"]
    assert client.reload_models().loaded[0].weights_hash == "f00d"


def test_the_same_request_id_gives_the_same_session(client):
    first = client.create_session("adamw", PARAMETERS, request_id="a")
    again = client.create_session("adamw", PARAMETERS, request_id="a")
    other = client.create_session("adamw", PARAMETERS)

    assert first == again and other != first
    assert first.shapes == [(3, 5), ()] and first.sizes == [15, 1]


def test_a_token_does_not_show_in_logs(session):
    assert session.token and session.token not in repr(session)


def test_lists_all_pages_of_sessions(client):
    names = [client.create_session("adamw", PARAMETERS).name for _ in range(3)]

    assert [s.name for s in client.list_sessions()] == names


def test_errors_carry_reason_and_message(client):
    with pytest.raises(InvalidRequestError, match="there is adamw") as caught:
        client.create_session("nope", PARAMETERS)

    error = caught.value
    assert (error.code, error.reason) == ("NOT_FOUND", "UNKNOWN_OPTIMIZER")


def test_a_wrong_token_is_refused(client, session):
    stranger = client.attach(session.name, "wrong")

    for call in (client.delete_session, client.export_state, client.open_stream):
        with pytest.raises(InvalidRequestError) as caught:
            call(stranger)
        assert caught.value.reason == "WRONG_TOKEN"


def test_a_deleted_session_is_lost(client, session):
    client.delete_session(session)

    with pytest.raises(SessionLostError):
        client.get_session(session.name)


def test_updates_name_what_they_change(daemon, client, session):
    client.update_session(session, hyperparameters={"beta1": 0.5}, label="new")

    (request,) = daemon.updates
    assert sorted(request.update_mask.paths) == ["hyperparameters", "label"]
    assert request.spec.hyperparameters["beta1"] == 0.5


def test_steps_in_single_calls(client, session):
    first, epoch = client.step(session, 1, gradients(1))
    again, epoch = client.step(session, 1, gradients(1), epoch=epoch)
    second, _ = client.step(session, 2, [None, gradients(2)[1]], epoch=epoch)

    assert not first.statistics.replayed and again.statistics.replayed
    np.testing.assert_array_equal(first.updates[0].values, again.updates[0].values)
    assert second.updates[0] is None and second.updates[1] is not None


def test_a_single_step_is_refused_after_a_stream_took_over(client, session):
    _, epoch = client.step(session, 1, gradients(1))
    client.open_stream(session)

    with pytest.raises(SupersededError):
        client.step(session, 2, gradients(2), epoch=epoch)


def test_a_state_goes_to_another_session(client, session):
    client.step(session, 1, gradients(1))
    state = client.export_state(session)
    other = client.create_session("adamw", PARAMETERS)

    client.import_state(other, state)
    ours, _ = client.step(session, 2, gradients(2))
    theirs, _ = client.step(other, 2, gradients(2))

    assert state.header.step == 1
    assert set(state.tensors()) == {(s, p) for s in ("exp_avg", "exp_avg_sq") for p in (0, 1)}
    assert state.tensors()["exp_avg", 0].shape == (3, 5)
    np.testing.assert_array_equal(ours.updates[0].values, theirs.updates[0].values)


@pytest.mark.parametrize("fault", ["cut", "flip", "headless", "long"])
def test_a_damaged_state_is_noticed(client, session, fault):
    parts = list(client.export_state(session).parts())
    if fault == "cut":
        parts.pop()
    elif fault == "flip":
        parts[1] = messages.StatePart(data=b"\1" + parts[1].data[1:])
    elif fault == "headless":
        parts.pop(0)
    else:
        parts.insert(1, messages.StatePart(data=b"\0"))

    with pytest.raises(ServerError, match="incomplete or damaged"):
        State.of_parts(parts)


FORKS = """
import os, sys
import numpy as np
from mnemosyne_client import Client, messages

client = Client(sys.argv[1])
if sys.argv[2] == "before":
    if os.fork() == 0:
        assert client.server_info().version == "fake"
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    assert client.server_info().version == "fake"
    sys.exit(0)

session = client.create_session("adamw", [messages.ParameterSpec(name="w", shape=[2])])
stream = client.open_stream(session)
stream.step([np.ones(2, np.float32)])
for use in (client.server_info, lambda: stream.step([np.ones(2, np.float32)])):
    if os.fork() == 0:
        try:
            use()
        except RuntimeError as error:
            os._exit(3 if "spawn" in str(error) else 4)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 3
    stream.step([np.ones(2, np.float32)])
assert stream.opened.epoch == 1
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_forks(daemon, when):
    """A client works in a child if its parent has not called; else the child is told."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS, daemon.address, when], check=True, timeout=60
    )


def test_a_closed_client_opens_again(client):
    client.server_info()
    client.close()

    assert client.server_info().version == "fake"


class Failed(grpc.RpcError):
    """A call as gRPC reports its end."""

    def __init__(self, code, details, trailers=()):
        self.code = lambda: code
        self.details = lambda: details
        self.trailing_metadata = lambda: trailers


@pytest.mark.parametrize("code", ["CANCELLED", "INTERNAL", "UNKNOWN"])
def test_a_call_that_a_dying_daemon_breaks_off_is_tried_again(code):
    error = error_of_call(Failed(grpc.StatusCode[code], "Received RST_STREAM"))

    assert isinstance(error, UnavailableError)
    assert str(error).startswith(f"Received RST_STREAM ({code})")


def test_a_fault_of_this_side_is_not_tried_again():
    error = error_of_call(Failed(grpc.StatusCode.UNKNOWN, "Exception iterating requests!"))

    assert isinstance(error, ServerError)
