"""A network between client and daemon that breaks on purpose."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

# Closing with this set sends a reset instead of an orderly end.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes TCP connections on to a daemon, until it is told otherwise. Thread-safe."""

    def __init__(self, target: str):
        """Listens on a free port for connections to `target`, HOST:PORT."""
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._hold_next = False
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Breaks all connections off with a reset at both ends."""
        for connection in self._all():
            connection.reset()

    def stall(self) -> None:
        """From now on the connections that there are pass nothing on, and stay open."""
        for connection in self._all():
            connection.stall()

    def cut_client(self) -> None:
        """Leaves the connections half open: the client is gone, and the daemon is not told."""
        for connection in self._all():
            connection.cut_client()

    def hold_next(self) -> None:
        """Keeps the next connection from the daemon until release()."""
        with self._lock:
            self._hold_next = True

    def release(self) -> None:
        """Passes on what was held, also what the client has given up meanwhile."""
        for connection in self._all():
            connection.released.set()

    def close(self) -> None:
        """Ends everything."""
        self._listener.close()
        self.release()
        self.reset()

    def _all(self) -> list[_Connection]:
        with self._lock:
            return list(self._connections)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                held, self._hold_next = self._hold_next, False
                connection = _Connection(client, self._target)
                if not held:
                    connection.released.set()
                self._connections.append(connection)
                self.accepted += 1
            threading.Thread(target=connection.run, daemon=True).start()


class _Connection:
    """One connection, and the one that it is passed on to."""

    def __init__(self, client: socket.socket, target: tuple[str, int]):
        self.released = threading.Event()
        self._client = client
        self._target = target
        self._daemon: socket.socket | None = None
        self._stalled = False

    def run(self) -> None:
        # What the client sends while it is held is in the socket's buffer.
        self.released.wait()
        try:
            self._daemon = socket.create_connection(self._target)
        except OSError:
            self._end(self._client)
            return
        for source, sink in ((self._client, self._daemon), (self._daemon, self._client)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def reset(self) -> None:
        for end in (self._client, self._daemon):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._end(end)

    def stall(self) -> None:
        self._stalled = True

    def cut_client(self) -> None:
        self._stalled = True
        with contextlib.suppress(OSError):
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._end(self._client)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self._stalled:
                    continue  # Lost on its way.
                sink.sendall(data)
            if not self._stalled:
                sink.shutdown(socket.SHUT_WR)

    @staticmethod
    def _end(end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            end.close()
