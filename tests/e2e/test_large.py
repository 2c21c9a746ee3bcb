"""Sizes: many parameters, and steps that do not fit into what a connection buffers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from e2e_daemon import DaemonProcess
from e2e_stream import RawStream

from mnemosyne_client import Client, messages
from mnemosyne_client.tensors import Grid

m = messages


def test_ten_thousand_parameters_in_one_session(client):
    shapes = [(1 + i % 7, 3) for i in range(10_000)]
    parameters = [m.ParameterSpec(name=f"layer{i}.weight", shape=s) for i, s in enumerate(shapes)]
    session = client.create_session("sgd", parameters, hyperparameters={"learning_rate": 0.5})
    with client.open_stream(session) as stream:
        for step in (1, 2):
            result = stream.step([np.full(s, i + step, np.float32) for i, s in enumerate(shapes)])

    assert len(client.get_session(session.name).spec.parameters) == 10_000
    for i in (0, 1, 4999, 9999):
        update = result.updates[i]
        np.testing.assert_array_equal(
            update.values * update.scale, np.full(shapes[i], -(i + 2) / 2)
        )
    client.delete_session(session)


@pytest.fixture(scope="module")
def roomy_daemon():
    """A daemon with the cells that it has by default."""
    process = DaemonProcess("--memory-max", "2GiB")
    yield process
    assert process.stop() == 0, process.log[-5000:]


@pytest.mark.parametrize("listener", ["tcp", "unix"])
def test_a_whole_large_step_is_written_before_anything_is_read(roomy_daemon, listener):
    elements = 12_000_000
    gradient = np.full(elements, 0.5, np.float32)
    with Client(getattr(roomy_daemon, listener)) as client:
        session = client.create_session("sgd", [m.ParameterSpec(name="w", shape=[elements])])
        written = threading.Event()

        def requests():
            open_stream = m.OpenStream(session=session.name, token=session.token)
            yield m.OptimizeRequest(open=open_stream)
            yield m.OptimizeRequest(begin=m.StepBegin(step=1))
            for group in Grid([elements], session.details.cell_elements).pack(
                [gradient], checksums=False
            ):
                yield m.OptimizeRequest(chunks=group)
            yield m.OptimizeRequest(end=m.StepEnd(step=1))
            written.set()

        answers = client.methods.optimize(requests())
        assert written.wait(60), "the daemon stalls on a client that does not read"
        received = 0
        for answer in answers:
            received += sum(len(chunk.payload) for chunk in answer.chunks)
            if answer.HasField("done"):
                break
        client.delete_session(session)

    assert received == 4 * elements


@pytest.mark.parametrize("encoding", ["bfloat16", "float16"])
def test_narrow_encodings_are_as_exact_as_their_elements(client, encoding):
    rng = np.random.default_rng(0)
    shapes = [(33, 17), (1000,)]
    parameters = [m.ParameterSpec(name=str(i), shape=s) for i, s in enumerate(shapes)]
    runs = {}
    for name in ("float32", encoding):
        rng = np.random.default_rng(0)
        session = client.create_session("adamw", parameters, hyperparameters={"learning_rate": 0.1})
        values = [np.zeros(s, np.float32) for s in shapes]
        with client.open_stream(session, gradient_encoding=name, update_encoding=name) as stream:
            assert stream.opened.gradient_encoding == stream.opened.update_encoding
            for _ in range(20):
                result = stream.step([rng.normal(size=s) + 0.5 for s in shapes])
                for value, update in zip(values, result.updates):
                    update.apply_to(value)
        client.delete_session(session)
        runs[name] = values

    for narrow, exact in zip(runs[encoding], runs["float32"]):
        relative = np.linalg.norm(narrow - exact) / np.linalg.norm(exact)
        assert 0 < relative < 0.02


def test_checksums_travel_both_ways(client):
    session = client.create_session("lion", [m.ParameterSpec(name="w", shape=[700])])
    with client.open_stream(session, checksums=True) as stream:
        assert stream.step([np.ones(700, np.float32)]).step == 1
    with RawStream(client, session, checksums=True) as stream:
        payload = [
            m.TensorChunk(cell=cell, payload=np.ones(n, np.float32).tobytes())
            for cell, n in enumerate((256, 256, 188))
        ]
        _, chunks = stream.step(2, payload)
    client.delete_session(session)

    assert len(chunks) == 3 and all(c.HasField("crc32c") for c in chunks)
