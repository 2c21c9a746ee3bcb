"""A stream that sends what a test gives it, right or wrong."""

from __future__ import annotations

import time

import numpy as np

from mnemosyne_client import messages as m
from mnemosyne_client.connection import Connection

TIMEOUT = 60.0


class RawStream:
    """Sends messages as they are and returns the answers without heartbeats."""

    def __init__(self, client, session, **options):
        self.connection = Connection(client.methods.optimize)
        self.send(
            m.OptimizeRequest(
                open=m.OpenStream(session=session.name, token=session.token, **options)
            )
        )
        self.opened = self.receive().opened

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def send(self, *requests: m.OptimizeRequest) -> None:
        self.connection.send(requests)

    def receive(self) -> m.OptimizeResponse:
        """Returns the next message that is not just a heartbeat; raises if the stream ended."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            response = self.connection.receive(TIMEOUT)
            response.ClearField("heartbeat")
            if response.ByteSize():
                return response
        raise TimeoutError("the daemon sends heartbeats but no answer")

    def answer(self):
        """Returns the error, or the done and all chunks, of the step in flight."""
        chunks = []
        while True:
            response = self.receive()
            chunks.extend(response.chunks)
            if response.HasField("error"):
                assert not chunks, "a refused step has no updates"
                return response.error
            if response.HasField("done"):
                return response.done, chunks

    def step(self, number: int, chunks, **begin):
        """Runs a step in one message; returns what answer() does."""
        self.send(
            m.OptimizeRequest(
                begin=m.StepBegin(step=number, **begin), chunks=chunks, end=m.StepEnd(step=number)
            )
        )
        return self.answer()


def chunk(parameter: int, values, cell: int = 0, **fields) -> m.TensorChunk:
    """Returns a chunk of float32 values."""
    payload = np.asarray(values, np.float32).tobytes()
    return m.TensorChunk(parameter=parameter, cell=cell, payload=payload, **fields)
