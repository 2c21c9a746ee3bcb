"""Calls to a daemon: a channel for each process, and patience while the daemon is away."""

from __future__ import annotations

import os
import threading
import time
from typing import Callable, TypeVar

import grpc

from mnemosyne_client import _fork, messages
from mnemosyne_client._wire import Methods, open_channel
from mnemosyne_client.credentials import Credentials
from mnemosyne_client.errors import SessionLostError, UnavailableError, error_of_call
from mnemosyne_client.patience import Patience, WaitPolicy

_T = TypeVar("_T")

# A channel younger than this is not replaced.
_YOUNGEST_RENEWED_SECONDS = 0.02

# Channels of a parent process: kept, because destroying them in a fork may block for ever.
_inherited: list[grpc.Channel] = []


class Caller:
    """Makes calls. Thread-safe.

    Attributes:
        address: The daemon's address.
        wait_policy: What to do while the daemon is away.
        timeout: How long one try of a call may take, in seconds.
    """

    def __init__(
        self,
        address: str,
        wait_policy: WaitPolicy,
        timeout: float,
        credentials: Credentials | None = None,
    ) -> None:
        """Connects at the first call of each process.

        Raises:
            ValueError: The credentials may not be used with the address.
        """
        self._credentials = credentials or Credentials()
        self._credentials.check(address)
        self.address = address
        self.wait_policy = wait_policy
        self.timeout = timeout
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._channel: grpc.Channel | None = None
        self._opened = 0.0
        self._methods: Methods | None = None

    @property
    def methods(self) -> Methods:
        """The service's methods on this process's channel.

        Raises:
            RuntimeError: The process was forked from one that has made calls.
        """
        if self._pid != os.getpid():
            if self._channel is not None:
                _fork.check_usable_in_child()
                _inherited.append(self._channel)
            self._lock = threading.Lock()
            self._pid = os.getpid()
            self._channel = self._methods = None
        with self._lock:
            if self._methods is None:
                self._channel = open_channel(self.address, self._credentials)
                self._methods = Methods(self._channel, self._credentials)
                self._opened = time.monotonic()
            return self._methods

    def renew(self) -> None:
        """Lets the next call open another channel, after one that found no daemon.

        A channel waits longer and longer between its tries, and all of them fail meanwhile; how
        long to wait is this package's affair. And a connection through a network that loses
        everything does not say so. Calls of other threads end on the channel that they are on.
        """
        if self._pid != os.getpid():
            return
        with self._lock:
            # One that another thread has just opened gets its chance.
            if time.monotonic() - self._opened >= _YOUNGEST_RENEWED_SECONDS:
                self._channel = self._methods = None

    def call(self, method: str, request: messages.Message, answer: type[_T]) -> _T:
        """Calls a unary method, which returns an `answer`.

        Raises:
            MnemosyneError: The call failed; see the type and the reason.
        """
        tries = 0

        def attempt() -> _T:
            nonlocal tries
            tries += 1
            try:
                response: _T = getattr(self.methods, method)(request, timeout=self.timeout)
            except grpc.RpcError as error:
                if (
                    method == "delete_session"
                    and tries > 1
                    and isinstance(error_of_call(error), SessionLostError)
                ):
                    # An earlier try deleted it and only the answer was lost.
                    return answer()
                raise
            return response

        return self.with_patience(attempt)

    def call_once(self, method: str, request: messages.Message, answer: type[_T]) -> _T:
        """Calls a unary method in a single try.

        Raises:
            MnemosyneError: The call failed; see the type and the reason.
        """
        try:
            response: _T = getattr(self.methods, method)(request, timeout=self.timeout)
        except grpc.RpcError as error:
            raise error_of_call(error) from None
        return response

    def with_patience(self, attempt: Callable[[], _T]) -> _T:
        """Makes a call again while the daemon is away.

        Raises:
            MnemosyneError: The call failed; see the type and the reason.
        """
        patience = Patience(self.wait_policy, f"the daemon at {self.address}")
        while True:
            try:
                result = attempt()
            except grpc.RpcError as rpc_error:
                error = error_of_call(rpc_error)
                if not isinstance(error, UnavailableError):
                    raise error from None
                if not error.reason:
                    self.renew()
                if error.code == "DEADLINE_EXCEEDED":
                    raise error from None
                patience.pause(error)
            else:
                patience.succeed()
                return result

    def close(self) -> None:
        """Closes the channel; a later call opens another one."""
        if self._pid != os.getpid():
            return
        with self._lock:
            channel, self._channel, self._methods = self._channel, None, None
        if channel is not None:
            channel.close()
