"""Steps that the daemon must refuse: it loses nothing and leaves the stream usable."""

from __future__ import annotations

import numpy as np
import pytest
from e2e_daemon import CELL_ELEMENTS
from e2e_stream import RawStream, chunk

from mnemosyne_client import InvalidRequestError, MnemosyneError, UnavailableError, messages
from mnemosyne_client.connection import Connection

m = messages
SIZE = 2 * CELL_ELEMENTS + 10
LAST = np.full(10, 0.5)
FULL = np.full(CELL_ELEMENTS, 0.5)


@pytest.fixture
def session(client):
    parameters = [m.ParameterSpec(name="wide", shape=[SIZE]), m.ParameterSpec(name="scalar")]
    session = client.create_session("adamw", parameters)
    yield session
    client.delete_session(session)


def good_chunks():
    return [chunk(0, FULL, 0), chunk(0, FULL, 1), chunk(0, LAST, 2), chunk(1, [0.25])]


def updates_of(answer):
    done, chunks = answer
    assert isinstance(done, m.StepDone)
    return {(c.parameter, c.cell): (c.payload, c.scale, c.decay) for c in chunks}


WRONG_CHUNKS = {
    "missing cell": (lambda c: c[:2] + c[3:], "CELL_MISSING", "wide"),
    "missing parameter": (lambda c: c[:3], "CELL_MISSING", "scalar"),
    "repeated cell": (lambda c: [*c, c[1]], "CELL_REPEATED", "wide"),
    "cell beyond the grid": (lambda c: [*c, chunk(0, LAST, 3)], "CELL_OUT_OF_RANGE", "wide"),
    "negative cell": (lambda c: [*c, chunk(0, LAST, -1)], "CELL_OUT_OF_RANGE", "wide"),
    "unknown parameter": (lambda c: [*c, chunk(2, [1.0])], "UNKNOWN_PARAMETER", "2"),
    "negative parameter": (lambda c: [*c, chunk(-1, [1.0])], "UNKNOWN_PARAMETER", "-1"),
    "short payload": (lambda c: [*c[1:], chunk(0, FULL[1:])], "WRONG_PAYLOAD_SIZE", "wide"),
    "long payload": (lambda c: [*c[:3], chunk(1, [1, 2])], "WRONG_PAYLOAD_SIZE", "scalar"),
    "another type": (
        lambda c: [*c[1:], m.TensorChunk(payload=FULL.astype("f8").tobytes())],
        "WRONG_PAYLOAD_SIZE",
        "wide",
    ),
    "half an element": (
        lambda c: [*c[:3], m.TensorChunk(parameter=1, payload=b"\0\0")],
        "WRONG_PAYLOAD_SIZE",
        "scalar",
    ),
    "checksum": (lambda c: [*c[:3], chunk(1, [1], crc32c=7)], "CHECKSUM_MISMATCH", "scalar"),
    "nan": (lambda c: [*c[:3], chunk(1, [np.nan])], "NON_FINITE", "scalar"),
    "infinity": (lambda c: [*c[:2], chunk(0, [*LAST[1:], -np.inf], 2), c[3]], "NON_FINITE", "wide"),
}


@pytest.mark.parametrize("case", WRONG_CHUNKS)
def test_wrong_chunks_are_refused_and_leave_no_trace(client, session, case):
    spoil, reason, culprit = WRONG_CHUNKS[case]
    with RawStream(client, session) as stream:
        error = stream.step(1, spoil(good_chunks()))
        first = updates_of(stream.step(1, good_chunks()))
    expected = client.create_session("adamw", session.details.spec.parameters)
    with RawStream(client, expected) as stream:
        undisturbed = updates_of(stream.step(1, good_chunks()))
    client.delete_session(expected)

    assert isinstance(error, m.StepError) and error.step == 1
    assert error.reason == reason, error
    assert culprit in error.message
    assert first == undisturbed


def test_chunks_of_an_absent_parameter_are_refused(client, session):
    with RawStream(client, session) as stream:
        error = stream.step(1, good_chunks(), absent_parameters=[1])
        beyond = stream.step(1, good_chunks()[:3], absent_parameters=[7])
        done, _ = stream.step(1, good_chunks()[:3], absent_parameters=[1])

    assert isinstance(error, m.StepError) and "scalar" in error.message
    assert isinstance(beyond, m.StepError) and beyond.reason == "UNKNOWN_PARAMETER"
    assert done.step == 1


@pytest.mark.parametrize("begin", [{"learning_rates": [1, 2]}, {"learning_rates": [-1]},
                                   {"learning_rates": [float("nan")]},
                                   {"learning_rate_factors": [1, 1]},
                                   {"parameter_rms": [1.0]}])  # fmt: skip
def test_wrong_values_of_a_step_are_refused(client, session, begin):
    with RawStream(client, session) as stream:
        error = stream.step(1, good_chunks(), **begin)
        done, _ = stream.step(1, good_chunks())

    assert isinstance(error, m.StepError) and done.step == 1


def test_steps_are_numbered_exactly(client, session):
    with RawStream(client, session) as stream:
        zero = stream.step(0, good_chunks())
        gap = stream.step(2, good_chunks())
        first = stream.step(1, good_chunks())
        again = stream.step(1, good_chunks())
        other = stream.step(1, [chunk(0, FULL * 2), *good_chunks()[1:]])
        stream.step(2, good_chunks())
        skipped = stream.step(4, good_chunks())
        old = stream.step(1, good_chunks())
        third, _ = stream.step(3, good_chunks())

    assert zero.code and zero.reason
    assert (gap.reason, dict(gap.metadata)) == ("STEP_GAP", {"expected_step": "1"})
    assert updates_of(first) == updates_of(again)
    assert not first[0].replayed and again[0].replayed
    assert other.reason == "RESEND_DIFFERS"
    assert skipped.reason == "STEP_GAP" and skipped.metadata["expected_step"] == "3"
    assert old.reason == "STEP_TOO_OLD" and old.metadata["last_step"] == "2"
    assert third.step == 3


def test_a_resend_with_other_values_differs(client, session):
    with RawStream(client, session) as stream:
        first = stream.step(1, good_chunks(), learning_rates=[0.5])
        same = stream.step(1, good_chunks(), learning_rates=[0.5])
        fewer = stream.step(1, good_chunks()[:3], absent_parameters=[1])

    assert updates_of(first) == updates_of(same)
    assert fewer.reason == "RESEND_DIFFERS"


@pytest.mark.parametrize(
    "wrong",
    {
        "end without begin": [m.OptimizeRequest(end=m.StepEnd(step=1))],
        "chunk without begin": [m.OptimizeRequest(chunks=[chunk(1, [1.0])])],
        "end of another step": [
            m.OptimizeRequest(begin=m.StepBegin(step=1), end=m.StepEnd(step=2))
        ],
        "open twice": [m.OptimizeRequest(open=m.OpenStream())],
    }.items(),
    ids=lambda item: item[0],
)
def test_messages_out_of_order_end_the_stream_alone(client, session, wrong):
    with RawStream(client, session) as other:
        other.step(1, good_chunks())
        with RawStream(client, session) as stream:
            stream.send(*wrong[1])
            try:
                reason = stream.answer().reason
            except InvalidRequestError as error:
                reason = error.reason
    assert reason == "PROTOCOL_VIOLATION"

    with RawStream(client, session) as stream:
        done, _ = stream.step(2, good_chunks())
        assert done.step == 2


def test_a_step_that_is_begun_anew_forgets_its_first_beginning(client, session):
    with RawStream(client, session) as stream:
        first = m.StepBegin(step=1, learning_rates=[9.0])
        stream.send(m.OptimizeRequest(begin=first, chunks=[chunk(1, [3.0])]))
        done, chunks = stream.step(1, good_chunks())
        again = stream.step(1, good_chunks())

    assert done.step == 1 and updates_of((done, chunks)) == updates_of(again)


def test_a_stream_starts_with_open(client, session):
    connection = Connection(client.methods.optimize)
    connection.send([m.OptimizeRequest(begin=m.StepBegin(step=1))])
    with pytest.raises(InvalidRequestError) as caught:
        connection.receive(60)
    connection.close()

    assert caught.value.reason == "PROTOCOL_VIOLATION"


@pytest.mark.parametrize("options", [{"rank": 1}, {"lane": 1}, {"rank": -1},
                                     {"gradient_encoding": m.DATA_TYPE_FLOAT64},
                                     {"update_encoding": 99}])  # fmt: skip
def test_what_is_not_served_is_refused_at_the_open(client, session, options):
    with pytest.raises(InvalidRequestError) as caught:
        RawStream(client, session, **options)

    assert caught.value.reason and caught.value.message


def test_a_message_above_the_limit_ends_the_stream_alone(client, session):
    with RawStream(client, session) as stream:
        limit = stream.opened.message_bytes_max
        huge = m.TensorChunk(parameter=0, payload=bytes(limit + 1))
        stream.send(m.OptimizeRequest(begin=m.StepBegin(step=1), chunks=[huge]))
        with pytest.raises(MnemosyneError) as caught:
            stream.receive()

    assert not isinstance(caught.value, UnavailableError)
    with RawStream(client, session) as stream:
        done, _ = stream.step(1, good_chunks())
        assert done.step == 1


@pytest.mark.parametrize(
    ("policy", "expected"), [(m.NON_FINITE_POLICY_SKIP, "skip"), (m.NON_FINITE_POLICY_ZERO, "zero")]
)
def test_other_policies_let_a_nan_pass_without_harm(client, policy, expected):
    parameters = [m.ParameterSpec(name="a", shape=[4]), m.ParameterSpec(name="b", shape=[2])]
    session = client.create_session(
        "sgd", parameters, hyperparameters={"learning_rate": 1.0}, non_finite_policy=policy
    )
    spoiled = np.array([1, np.nan, 3, np.inf], np.float32)
    with client.open_stream(session) as stream:
        result = stream.step([spoiled, np.ones(2, np.float32)])
    client.delete_session(session)

    done = result.statistics
    first, second = (u if u is None else u.values * u.scale for u in result.updates)
    assert done.non_finite_count == 2
    np.testing.assert_array_equal(second, [-1, -1])
    if expected == "skip":
        assert list(done.skipped_parameters) == [0]
        assert first is None or not first.any()
    else:
        np.testing.assert_array_equal(first, [-1, 0, -3, 0])


def test_a_bad_client_leaves_others_untouched(client, session):
    other = client.create_session("adamw", session.details.spec.parameters)
    with RawStream(client, other) as good:
        updates = []
        for number, case in enumerate(("nan", "missing cell", "checksum"), 1):
            with RawStream(client, session) as bad:
                bad.step(1, WRONG_CHUNKS[case][0](good_chunks()))
                updates.append(updates_of(good.step(number, good_chunks())))

    assert len(updates) == 3
    client.delete_session(other)
