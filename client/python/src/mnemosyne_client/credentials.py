"""How a client and a daemon know each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import grpc

_LOCAL = ("unix:", "127.", "localhost:", "[::1]:")


@dataclass(frozen=True)
class Credentials:
    """What a client trusts and shows.

    By default nothing is encrypted and nothing shown, which suits loopback and a Unix-domain
    socket.

    Attributes:
        tls: Whether to encrypt.
        root_certificates: PEM; None for the authorities that gRPC knows.
        certificate: PEM, of this client, if the daemon asks for one.
        private_key: PEM, of the certificate.
        server_name: What the daemon's certificate names, if not its address.
        access_token: As `mnemosynectl token` made it; says which tenant calls.
    """

    tls: bool = False
    root_certificates: bytes | None = None
    certificate: bytes | None = None
    private_key: bytes | None = field(default=None, repr=False)
    server_name: str | None = None
    access_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_files(
        cls,
        *,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        access_token: str | Path | None = None,
        server_name: str | None = None,
        tls: bool | None = None,
    ) -> Credentials:
        """Reads credentials from files.

        Args:
            ca: PEM of the authorities that the daemon's certificate comes from.
            certificate: PEM of this client's certificate.
            key: PEM of its key.
            access_token: A file with the token and nothing else.
            server_name: What the daemon's certificate names, if not its address.
            tls: Whether to encrypt; None if there is a PEM file.

        Raises:
            OSError: A file cannot be read.
        """

        def read(path: str | Path | None) -> bytes | None:
            return None if path is None else Path(path).read_bytes()

        token = read(access_token)
        return cls(
            tls=tls if tls is not None else any(p is not None for p in (ca, certificate, key)),
            root_certificates=read(ca),
            certificate=read(certificate),
            private_key=read(key),
            server_name=server_name,
            access_token=None if token is None else token.decode().strip(),
        )

    def check(self, address: str) -> None:
        """Makes sure that they may be used with `address`.

        Raises:
            ValueError: An access token would travel in plaintext beyond this machine, or a
                certificate lacks its key.
        """
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("a certificate and its key are given together or not at all")
        if self.access_token and not self.tls and not address.startswith(_LOCAL):
            raise ValueError(
                f"the access token would travel to {address} in plaintext, where anyone could "
                "take it; use TLS"
            )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Returns gRPC's form of what encrypts."""
        return grpc.ssl_channel_credentials(
            self.root_certificates, self.private_key, self.certificate
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns what each call carries to say who makes it."""
        if not self.access_token:
            return ()
        return (("authorization", f"Bearer {self.access_token}"),)
