"""What an optimizer of PyTorch holds in the daemon."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from mnemosyne_client.client import Client
from mnemosyne_client.errors import MnemosyneError
from mnemosyne_client.session import Session
from mnemosyne_client.stream import OptimizeStream


@dataclass
class Lease:
    """A session and the stream on it, apart from the optimizer so that they can outlive it.

    Attributes:
        client: The daemon.
        pid: The process that made the session; only it gives the session back.
        delete: Whether the session is deleted at the end.
        session: The session; None before it is made and after the end.
        stream: The stream, if one is open.
    """

    client: Client
    pid: int
    delete: bool
    session: Session | None = None
    stream: OptimizeStream | None = None

    def open_stream(self, options: dict[str, Any]) -> OptimizeStream:
        """Returns the stream, which is opened at its first use."""
        if self.session is None:
            raise RuntimeError("the optimizer is closed")
        if self.stream is None:
            self.stream = self.client.open_stream(self.session, **options)
        return self.stream

    def close_stream(self) -> None:
        """Ends the stream; the next use opens another one."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def release(self) -> None:
        """Ends the stream and deletes a session that nobody else can know."""
        if self.pid != os.getpid():
            return
        self.close_stream()
        session, self.session = self.session, None
        if session is not None and self.delete:
            with Client(self.client.address, on_unavailable="raise", timeout=5) as client:
                try:
                    client.delete_session(session)
                except MnemosyneError:
                    pass
