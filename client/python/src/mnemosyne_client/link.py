"""What ties a stream to its session: the connection, and where both ends stand."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from mnemosyne_client import messages
from mnemosyne_client._wire import PROTOCOL_REVISION
from mnemosyne_client.connection import Connection
from mnemosyne_client.errors import SessionLostError, SupersededError
from mnemosyne_client.session import Session

if TYPE_CHECKING:
    from mnemosyne_client.client import Client

# Connections of a parent process: kept, because destroying them in a fork may block for ever.
_inherited: list[Connection] = []


class Link:
    """Connects to a session, again after every break, but never after somebody else took it.

    Not thread-safe.

    Attributes:
        opened: The daemon's answer to the last open: epoch, grid, limits.
        last_step: The last step whose answer is here; None until the daemon has told it.
    """

    def __init__(
        self,
        client: Client,
        session: Session,
        request: messages.OpenStream,
        can_resend: Callable[[int, int], bool] = lambda first, last: False,
    ) -> None:
        """Starts without a connection.

        Args:
            client: The daemon.
            session: The session.
            request: Options of the stream; name, token and revision are filled in.
            can_resend: Whether the steps from the first to the last can be sent again.
        """
        self.opened = messages.StreamOpened()
        self.last_step: int | None = None
        self._client = client
        self._session = session
        self._request = messages.OpenStream()
        self._request.CopyFrom(request)
        self._request.session = session.name
        self._request.token = session.token
        self._request.protocol_revision = PROTOCOL_REVISION
        # Tells the daemon which of this link's openings came late.
        self._request.stream_id = secrets.randbits(64) | 1
        self._connection: Connection | None = None
        # Opens whose answer was lost: each may have advanced the session's epoch.
        self._blind_opens = 0
        self._superseded: SupersededError | None = None
        self._can_resend = can_resend
        # The last step that the daemon had applied at the last open, or was sent again since.
        self.daemon_step = 0
        self.open_count = 0
        self._pid = os.getpid()
        self._closed = False

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    def connect(self) -> Connection:
        """Returns the connection, which is opened if there is none.

        Raises:
            UnavailableError: The daemon cannot be reached.
            SupersededError: A newer stream holds the session.
            SessionLostError: The session is gone, or stands at another step.
            InvalidRequestError: The daemon refuses the token or an option.
            ValueError: The link is closed.
        """
        if self._closed:
            raise ValueError("the stream is closed")
        if self._superseded is not None:
            raise self._superseded
        if self._pid != os.getpid() and self._connection is not None:
            _inherited.append(self._connection)
            self._connection = None
        if self._connection is None:
            self._check_not_superseded()
            self._open()
        assert self._connection is not None
        return self._connection

    def drop(self) -> None:
        """Breaks the connection off, so that connect() opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def give_up(self, error: SupersededError) -> None:
        """Breaks the connection off for good."""
        self._superseded = error
        self.drop()

    def close(self) -> None:
        """Ends the connection between two steps. May be called again."""
        self._closed = True
        if self._connection is not None and self._pid == os.getpid():
            self._connection.close(graceful=True)
        self._connection = None

    def _open(self) -> None:
        """Opens a connection and learns where the session stands."""
        self._pid = os.getpid()
        self._connection = Connection(self._client.methods.optimize)
        self._request.attempt += 1
        request = messages.OptimizeRequest()
        request.open.CopyFrom(self._request)  # It is sent by another thread.
        self._connection.send([request])
        self._blind_opens += 1
        response = self._connection.receive(self._client.timeout)
        while not response.HasField("opened"):
            response = self._connection.receive(self._client.timeout)
        self.opened = response.opened
        self._blind_opens = 0

        self.open_count += 1
        applied = self.opened.last_applied_step
        self.daemon_step = applied
        if self.last_step is None:
            self.last_step = applied
        elif applied < self.last_step and self._can_resend(applied + 1, self.last_step):
            return  # The daemon lost steps; the stream sends them again.
        elif applied not in (self.last_step, self.last_step + 1) and not self._request.accept_loss:
            self.drop()
            raise SessionLostError(
                f"the session stands at step {applied}, this client at {self.last_step}"
                " and has not kept the gradients in between; load a checkpoint into the session "
                "to go on",
                code="FAILED_PRECONDITION",
                reason="STATE_MISMATCH",
                metadata={"last_step": str(applied)},
            )

    def _check_not_superseded(self) -> None:
        """Before reopening, makes sure that nobody opened the session in the meantime."""
        if self.opened.epoch == 0:
            return
        epoch = self._client.current_epoch(self._session.name)
        if epoch > self.opened.epoch + self._blind_opens:
            self._superseded = SupersededError(
                "a newer stream has held the session since this one broke",
                code="ABORTED",
                reason="SUPERSEDED",
                metadata={"epoch": str(epoch)},
            )
            raise self._superseded
