"""Sessions that the daemon must refuse with a clear error."""

from __future__ import annotations

import pytest

from mnemosyne_client import (
    Client,
    InvalidRequestError,
    MnemosyneError,
    ResourceExhaustedError,
    SessionLostError,
    messages,
)

P = messages.ParameterSpec
GOOD = [P(name="w", shape=[4, 3])]


def refused(client, optimizer="adamw", parameters=GOOD, kind=InvalidRequestError, **options):
    """Returns the error of a session that is refused; no session may be left behind."""
    before = {s.name for s in client.list_sessions()}
    with pytest.raises(kind) as caught:
        client.create_session(optimizer, parameters, **options)
    assert {s.name for s in client.list_sessions()} == before
    return caught.value


def test_an_unknown_optimizer_is_answered_with_those_there_are(client):
    error = refused(client, optimizer="adamax")

    assert error.reason == "UNKNOWN_OPTIMIZER" and error.code == "NOT_FOUND"
    for name in ("adam", "adamw", "lion", "sgd"):
        assert name in error.message


def test_an_unknown_version_is_refused(client):
    assert refused(client, optimizer_version="99").reason == "UNKNOWN_OPTIMIZER"


def test_an_unknown_hyperparameter_is_answered_with_those_there_are(client):
    error = refused(client, hyperparameters={"lr": 0.1})

    assert error.reason == "UNKNOWN_HYPERPARAMETER"
    assert " lr" in error.message and "learning_rate" in error.message


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_hyperparameter_out_of_bounds_is_refused(client, value):
    for options in (
        {"hyperparameters": {"learning_rate": value}},
        {"groups": [messages.ParameterGroup(hyperparameters={"learning_rate": value})]},
    ):
        error = refused(client, **options)
        assert error.reason == "INVALID_HYPERPARAMETER" and "learning_rate" in error.message


def test_no_parameters_are_refused(client):
    assert "parameter" in refused(client, parameters=[]).message


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        pytest.param([P(name="w", shape=[2]), P(name="w", shape=[3])], ["w"], id="same name twice"),
        pytest.param([P(name="deep", shape=[1] * 9)], ["deep", "8"], id="rank above 8"),
        pytest.param([P(name="void", shape=[3, 0])], ["void"], id="empty"),
        pytest.param([P(name="minus", shape=[-2, -3])], ["minus"], id="negative size"),
        pytest.param([P(name="huge", shape=[2**40, 2**40])], ["huge"], id="product overflows"),
        pytest.param([P(name="wrap", shape=[2**32, 2**32])], ["wrap"], id="product wraps to 0"),
        pytest.param([P(name="", shape=[2])], ["name"], id="no name"),
        pytest.param([P(name="x" * 1025, shape=[2])], ["1024"], id="long name"),
        pytest.param([P(name="odd", shape=[2], data_type=77)], ["odd"], id="unknown type"),
        pytest.param([P(name="lost", shape=[2], group=1)], ["lost"], id="no such group"),
        pytest.param([P(name="lost", shape=[2], group=-1)], ["lost"], id="negative group"),
    ],
)
def test_a_wrong_parameter_is_named(client, parameters, words):
    error = refused(client, parameters=parameters)

    assert error.reason in ("INVALID_PARAMETER", "INVALID_SPEC")
    for word in words:
        assert word in error.message.replace(",", "")


@pytest.mark.parametrize(
    "options",
    [
        {"clipping": messages.GradientClipping(global_norm=0)},
        {"clipping": messages.GradientClipping(tensor_norm=float("nan"))},
        {"schedule": messages.LearningRateSchedule(shape=3, warmup_steps=9, total_steps=9)},
        {"schedule": messages.LearningRateSchedule(warmup_steps=-1)},
        {"schedule": messages.LearningRateSchedule(shape=99, total_steps=9)},
        {"non_finite_policy": 99},
        {"label": "x" * 257},
    ],
)
def test_wrong_options_are_refused(client, options):
    assert refused(client, **options).reason in ("INVALID_SPEC", "UNSUPPORTED")


@pytest.mark.parametrize("request_id", ["", "x" * 129])
def test_a_request_id_has_1_to_128_bytes(client, request_id):
    refused(client, request_id=request_id)


def test_a_request_id_is_not_used_for_two_specs(client):
    session = client.create_session("adamw", GOOD, request_id="twice")

    error = refused(client, optimizer="adam", request_id="twice")
    again = client.create_session("adamw", GOOD, request_id="twice")

    assert error.reason == "REQUEST_ID_REUSED" and error.code == "ALREADY_EXISTS"
    assert again == session
    client.delete_session(session)


def test_a_session_larger_than_the_bound_is_told_what_would_fit(client):
    error = refused(client, parameters=[P(name="w", shape=[1 << 40])], kind=ResourceExhaustedError)

    assert error.reason == "MEMORY_EXHAUSTED"
    assert any(character.isdigit() for character in error.message)


def test_the_bound_on_memory_is_that_of_all_sessions(own_daemon):
    with Client(own_daemon("--memory-max", "64MiB").tcp) as client:
        large = [P(name="w", shape=[1 << 20])]
        sessions = []
        with pytest.raises(ResourceExhaustedError) as caught:
            for _ in range(50):
                sessions.append(client.create_session("adamw", large))
        info = client.server_info()
        client.delete_session(sessions.pop())
        client.create_session("adamw", large)

    assert caught.value.reason == "MEMORY_EXHAUSTED" and len(sessions) >= 1
    assert 0 < info.reserved_bytes <= info.reserved_bytes_max == 64 << 20


def test_bounds_on_sessions_and_parameters(own_daemon):
    with Client(own_daemon("--sessions-max", "2", "--parameters-max", "3").tcp) as client:
        four = [P(name=str(i), shape=[1]) for i in range(4)]
        assert refused(client, parameters=four, kind=MnemosyneError).reason == "TOO_MANY_PARAMETERS"
        for _ in range(2):
            client.create_session("adamw", GOOD)
        error = refused(client, kind=ResourceExhaustedError)

    assert error.reason == "TOO_MANY_SESSIONS"


def test_updates_are_checked_before_anything_changes(client):
    session = client.create_session("adamw", GOOD, hyperparameters={"beta1": 0.5})
    for changes, reason in (
        ({"hyperparameters": {"beta1": 0.7, "beta3": 1.0}}, "UNKNOWN_HYPERPARAMETER"),
        ({"hyperparameters": {"beta1": 0.7, "beta2": 1.5}}, "INVALID_HYPERPARAMETER"),
        ({"groups": [messages.ParameterGroup()] * 3}, "INVALID_SPEC"),
        ({"optimizer": "adam"}, None),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            client.update_session(session, **changes)
        assert reason is None or caught.value.reason == reason

    assert client.get_session(session.name).spec.hyperparameters["beta1"] == 0.5
    client.delete_session(session)


def test_sessions_that_are_not_there(client):
    missing = client.create_session("adamw", GOOD)
    client.delete_session(missing)
    for call in (client.delete_session, client.export_state, client.open_stream):
        with pytest.raises(SessionLostError) as caught:
            call(missing)
        assert caught.value.reason == "SESSION_NOT_FOUND"


def test_a_wrong_token_opens_nothing(tcp_client):
    client = tcp_client
    session = client.create_session("adamw", GOOD)
    stranger = client.attach(session.name, "guess")
    for call in (
        client.delete_session,
        client.export_state,
        client.open_stream,
        lambda s: client.update_session(s, label="x"),
        lambda s: client.step(s, 1, [None]),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            call(stranger)
        assert caught.value.reason == "WRONG_TOKEN"
        assert session.token not in caught.value.message
    client.delete_session(session)
