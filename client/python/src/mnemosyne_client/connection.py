"""One gRPC stream of `Optimize`: messages out, messages in, and nothing about what they mean."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import grpc

from mnemosyne_client import messages
from mnemosyne_client.errors import MnemosyneError, UnavailableError, error_of_call

# Messages read ahead of receive(). A step's answer is at most this much ahead of its reader.
_READ_AHEAD = 8


class Connection:
    """A stream that is open until it fails or is closed.

    Requests are made on gRPC's sending thread while they leave, so a large step is never in memory
    twice. Answers are read by a thread of this object, so that receive() can give up after a time
    and heartbeats never pile up. send() and receive() belong to one thread; close() to any.
    """

    def __init__(self, method: Any) -> None:
        """Starts the stream.

        Args:
            method: The stream-stream callable of `Optimize`.
        """
        self._outgoing: queue.SimpleQueue[Iterable[messages.OptimizeRequest] | None] = (
            queue.SimpleQueue()
        )
        self._incoming: queue.Queue[messages.OptimizeResponse | MnemosyneError] = queue.Queue(
            _READ_AHEAD
        )
        self._closed = False
        self._heartbeat_seconds = 10.0
        self._last_step = 0
        self._call = method(self._requests())
        self._reader = threading.Thread(
            target=self._read, name="mnemosyne-stream-reader", daemon=True
        )
        self._reader.start()

    def keep_alive(self, heartbeat_seconds: float, last_step: int) -> None:
        """Sets how often an idle stream sends a heartbeat, and the step that it tells."""
        self._heartbeat_seconds = max(heartbeat_seconds, 1)
        self._last_step = last_step

    def send(self, requests: Iterable[messages.OptimizeRequest]) -> None:
        """Sends `requests` in order, without waiting; they are made while they leave."""
        self._outgoing.put(requests)

    def receive(self, timeout: float) -> messages.OptimizeResponse:
        """Returns the next message.

        Args:
            timeout: The longest silence, in seconds.

        Raises:
            UnavailableError: The stream broke, or the daemon was silent for `timeout` seconds.
            MnemosyneError: The daemon ended the stream; see the type and the reason.
        """
        try:
            response = self._incoming.get(timeout=timeout)
        except queue.Empty:
            raise UnavailableError(
                f"the daemon sent nothing for {timeout:g} s", code="DEADLINE_EXCEEDED"
            ) from None
        if isinstance(response, MnemosyneError):
            raise response
        return response

    def close(self, *, graceful: bool = False) -> None:
        """Ends the stream.

        Args:
            graceful: Whether to end it between two steps, so that the daemon sees a client that
                left rather than one that broke off.
        """
        self._outgoing.put(None)
        if graceful:
            self._reader.join(timeout=1.0)
        self._closed = True
        self._call.cancel()

    def _requests(self) -> Iterator[messages.OptimizeRequest]:
        """Yields what send() was given, and heartbeats in between."""
        while True:
            try:
                requests = self._outgoing.get(timeout=self._heartbeat_seconds)
            except queue.Empty:
                beat = messages.Heartbeat(last_step=self._last_step)
                yield messages.OptimizeRequest(heartbeat=beat)
                continue
            if requests is None:
                return
            yield from requests

    def _read(self) -> None:
        try:
            for response in self._call:
                # One heartbeat in the queue tells as much as many.
                if not (_is_only_heartbeat(response) and not self._incoming.empty()):
                    self._deliver(response)
            self._deliver(UnavailableError("the daemon ended the stream", code="UNAVAILABLE"))
        except grpc.RpcError as error:
            self._deliver(error_of_call(error))

    def _deliver(self, response: messages.OptimizeResponse | MnemosyneError) -> None:
        """Puts `response` into the queue, waiting for room as long as the stream is open."""
        while not self._closed:
            try:
                self._incoming.put(response, timeout=0.5)
                return
            except queue.Full:
                continue


def _is_only_heartbeat(response: messages.OptimizeResponse) -> bool:
    return response.HasField("heartbeat") and not (
        response.chunks
        or response.HasField("opened")
        or response.HasField("done")
        or response.HasField("error")
    )
