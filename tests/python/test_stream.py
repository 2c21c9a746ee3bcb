"""OptimizeStream against a daemon that fails in every way."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from mnemosyne_client import (
    Client,
    InvalidRequestError,
    SessionLostError,
    SupersededError,
    UnavailableError,
    messages,
)

SHAPES = [(5, 7), (), (3,)]


@pytest.fixture
def session(client):
    parameters = [messages.ParameterSpec(name=f"p{i}", shape=s) for i, s in enumerate(SHAPES)]
    return client.create_session("adamw", parameters, hyperparameters={"weight_decay": 0.1})


def gradients(seed: int):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]


def run(client, session, steps: int, **options):
    """Returns the parameters after `steps` steps from zero."""
    parameters = [np.zeros(shape, np.float32) for shape in SHAPES]
    with client.open_stream(session, **options) as stream:
        for step in range(1, steps + 1):
            result = stream.step(gradients(step))
            assert result.step == step
            for parameter, update in zip(parameters, result.updates):
                update.apply_to(parameter)
    return parameters


@pytest.fixture
def undisturbed(client, session):
    """The parameters after six steps without a fault, on a session of its own."""
    other = client.create_session(
        "adamw", session.details.spec.parameters, hyperparameters={"weight_decay": 0.1}
    )
    return run(client, other, 6)


def assert_same_bits(actual, expected):
    for a, b in zip(actual, expected):
        np.testing.assert_array_equal(a, b)


def test_steps_and_applies_decay_before_the_update(client, session, undisturbed):
    assert_same_bits(run(client, session, 6), undisturbed)
    assert all(np.isfinite(p).all() and (p != 0).all() for p in undisturbed)


@pytest.mark.parametrize("fault", ["lose_answer", "break_step"])
def test_resends_a_step_whose_stream_broke(daemon, client, session, undisturbed, fault):
    setattr(daemon, fault, {1, 3, 4})

    assert_same_bits(run(client, session, 6), undisturbed)

    assert daemon.sessions[session.name].proto.last_step == 6
    assert not getattr(daemon, fault)


def test_waits_for_a_daemon_that_refuses_opens(daemon, client, session, undisturbed, caplog):
    with client.open_stream(session) as stream:
        stream.step(gradients(1))
        daemon.break_step, daemon.refuse_opens = {2}, 3

        stream.step(gradients(2))

    assert "is away" in caplog.text and "is back" in caplog.text


def test_raises_at_once_if_told_so(daemon, session):
    with Client(daemon.address, on_unavailable="raise") as client:
        stream = client.open_stream(session)
        stream.step(gradients(1))
        daemon.lose_answer, daemon.refuse_opens = {2}, 5

        with pytest.raises(UnavailableError) as caught:
            stream.step(gradients(2))
        daemon.refuse_opens = 0
        result = stream.step(gradients(2))

    assert caught.value.reason == "SHUTTING_DOWN"
    assert result.step == 2 and result.statistics.replayed


def test_gives_up_after_the_longest_wait(daemon, session):
    with Client(daemon.address, wait_seconds=0.3) as client:
        stream = client.open_stream(session)
        daemon.break_step, daemon.refuse_opens = {1}, 10**6

        with pytest.raises(UnavailableError, match="stayed away"):
            stream.step(gradients(1))


def test_a_daemon_that_is_not_there_is_unavailable(unused_address):
    with Client(unused_address, on_unavailable="raise") as client:
        with pytest.raises(UnavailableError):
            client.list_optimizers()


@pytest.fixture
def unused_address(tmp_path):
    return f"unix:{tmp_path}/nobody.sock"


def test_never_reopens_after_being_superseded(daemon, client, session):
    first = client.open_stream(session)
    first.step(gradients(1))
    second = client.open_stream(session)
    second.step(gradients(2))
    opens = daemon.opens

    for _ in range(2):
        with pytest.raises(SupersededError):
            first.step(gradients(2))

    assert daemon.opens == opens
    assert second.step(gradients(3)).step == 3


def test_does_not_reopen_a_session_that_was_taken_while_it_was_away(daemon, client, session):
    first = client.open_stream(session)
    first.step(gradients(1))
    daemon.break_step = {2}
    second_client = Client(daemon.address)
    taken = threading.Event()
    original = first._link.drop

    def take_session_then_drop():
        original()
        if not taken.is_set():
            taken.set()
            second_client.open_stream(session).step(gradients(2))

    first._link.drop = take_session_then_drop

    with pytest.raises(SupersededError):
        first.step(gradients(2))

    assert daemon.sessions[session.name].proto.last_step == 2


def test_a_refused_step_leaves_the_stream_usable(client, session):
    bad = gradients(1)
    bad[2][1] = np.nan
    with client.open_stream(session) as stream:
        with pytest.raises(InvalidRequestError) as caught:
            stream.step(bad)
        result = stream.step(gradients(1))

    assert caught.value.reason == "NON_FINITE"
    assert caught.value.metadata == {"parameter": "p2"}
    assert result.step == 1


def test_a_parameter_without_gradient_gets_no_update(daemon, client, session):
    with client.open_stream(session) as stream:
        partial = gradients(1)
        partial[1] = None
        updates = stream.step(partial).updates

    assert updates[1] is None and updates[0] is not None
    assert daemon.sessions[session.name].clocks == [1, 0, 1]


def test_asks_again_for_an_update_that_arrived_damaged(daemon, client, session, undisturbed):
    daemon.damage_update = {2}

    assert_same_bits(run(client, session, 6, checksums=True), undisturbed)


@pytest.mark.parametrize("encoding", ["bfloat16", "float16"])
def test_narrow_encodings_stay_close(client, session, undisturbed, encoding):
    narrow = run(client, session, 6, gradient_encoding=encoding, update_encoding=encoding)

    for a, b in zip(narrow, undisturbed):
        np.testing.assert_allclose(a, b, rtol=0.05, atol=2e-4)


def test_refuses_gradients_that_do_not_fit(client, session):
    with client.open_stream(session) as stream:
        with pytest.raises(ValueError, match="2 gradients for 3 parameters"):
            stream.step(gradients(1)[:2])
        with pytest.raises(ValueError, match="parameter 0 has shape"):
            stream.step([gradients(1)[0].T, *gradients(1)[1:]])


def test_a_session_that_was_deleted_is_lost(daemon, client, session):
    stream = client.open_stream(session)
    stream.step(gradients(1))
    daemon.break_step = {2}
    daemon.sessions.clear()

    with pytest.raises(SessionLostError) as caught:
        stream.step(gradients(2))

    assert caught.value.reason == "SESSION_NOT_FOUND"


def test_a_session_that_lost_steps_is_reported(daemon, client, session):
    stream = client.open_stream(session)
    for step in (1, 2, 3):
        stream.step(gradients(step))
    daemon.sessions[session.name].proto.last_step = 1
    daemon.break_step = {4}

    with pytest.raises(SessionLostError, match="stands at step 1, this client at 3"):
        stream.step(gradients(4))


def test_heartbeats_keep_an_idle_stream_and_never_pile_up(daemon, client, session):
    with client.open_stream(session) as stream:
        stream.step(gradients(1))
        stream._link._connection._outgoing.put(
            messages.OptimizeRequest(heartbeat=messages.Heartbeat()) for _ in range(100)
        )

        assert stream.step(gradients(2)).step == 2


def test_a_closed_stream_says_so(client, session):
    stream = client.open_stream(session)
    stream.close()
    stream.close()

    with pytest.raises(ValueError, match="closed"):
        stream.step(gradients(1))


def test_an_interrupted_step_is_given_up(daemon, client, session, monkeypatch):
    stream = client.open_stream(session)
    stream.step(gradients(1))
    with monkeypatch.context() as patch:

        def interrupt(*_):
            while daemon.sessions[session.name].proto.last_step < 2:
                pass
            raise KeyboardInterrupt

        patch.setattr(stream._link._connection, "receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            stream.step(gradients(2))

    assert stream.step(gradients(3)).step == 3
