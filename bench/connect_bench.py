"""Connections a second, one after the other, each until the daemon's first settings of HTTP/2.

usage: connect_bench.py ADDRESS [--ca FILE] [--seconds S]

Without `--ca` they are plaintext; with it each is a full handshake of TLS, of which the client's
share is in the time.
"""

from __future__ import annotations

import argparse
import socket
import ssl
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # With empty settings.
FRAME_HEADER_BYTES = 9


def connect(address: str, tls: ssl.SSLContext | None) -> None:
    """Opens a connection, waits for the first frame, and closes it."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        wire = tls.wrap_socket(raw, server_hostname=host) if tls else raw
        wire.sendall(PREFACE)
        received = b""
        while len(received) < FRAME_HEADER_BYTES:
            data = wire.recv(4096)
            if not data:
                raise ConnectionError("the daemon closed the connection")
            received += data
        wire.close()


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--ca")
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    tls = None
    if arguments.ca:
        tls = ssl.create_default_context(cafile=arguments.ca)
        tls.set_alpn_protocols(["h2"])
    begin, count = time.monotonic(), 0
    while time.monotonic() < begin + arguments.seconds:
        connect(arguments.address, tls)
        count += 1
    print(f"{count / (time.monotonic() - begin):.1f}")


if __name__ == "__main__":
    main()
