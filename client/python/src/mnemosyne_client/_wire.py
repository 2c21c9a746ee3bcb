"""The methods of the daemon's services on a channel, and the channel's options."""

from __future__ import annotations

import functools
from typing import Any

import grpc

from mnemosyne_client import messages
from mnemosyne_client.credentials import Credentials

_SERVICE = "/mnemosyne.v1.OptimizerService/"
_ATTENTION = "/mnemosyne.v1.AttentionService/"

# The newest revision of the protocol that this package speaks.
PROTOCOL_REVISION = 1

_CHANNEL_OPTIONS = [
    # Own messages stay below 4 MiB; unary steps and states may be larger in later daemons.
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", -1),
    # Reconnecting is paced by this package, so gRPC itself must not wait for long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # In spite of its name, how long a connection may take to come about, its handshake included.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # Each client has a connection of its own, and none goes through a proxy.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


def open_channel(address: str, credentials: Credentials) -> grpc.Channel:
    """Returns a channel to `host:port` or `unix:/path`; connects at the first call."""
    if not credentials.tls:
        return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
    options: list[tuple[str, Any]] = list(_CHANNEL_OPTIONS)
    if credentials.server_name:
        options.append(("grpc.ssl_target_name_override", credentials.server_name))
    return grpc.secure_channel(address, credentials.channel_credentials(), options=options)


class Methods:
    """One callable for each method of the services."""

    def __init__(self, channel: grpc.Channel, credentials: Credentials):
        """Binds the methods to `channel`; each call says who makes it."""
        metadata = credentials.metadata()

        def bind(kind: str, name: str, request: str, response: str, service: str = _SERVICE) -> Any:
            method = getattr(channel, kind)(
                service + name,
                request_serializer=getattr(messages, request).SerializeToString,
                response_deserializer=getattr(messages, response).FromString,
            )
            return functools.partial(method, metadata=metadata) if metadata else method

        def unary(name: str) -> Any:
            return bind("unary_unary", name, name + "Request", name + "Response")

        self.list_optimizers = unary("ListOptimizers")
        self.reload_models = unary("ReloadModels")
        self.create_session = unary("CreateSession")
        self.get_session = unary("GetSession")
        self.list_sessions = unary("ListSessions")
        self.update_session = unary("UpdateSession")
        self.delete_session = unary("DeleteSession")
        self.step = unary("Step")
        self.snapshot_session = unary("SnapshotSession")
        self.rewind_session = unary("RewindSession")
        self.drain = unary("Drain")
        self.get_server_info = unary("GetServerInfo")
        self.list_kernels = bind(
            "unary_unary", "ListKernels", "ListKernelsRequest", "ListKernelsResponse", _ATTENTION
        )
        self.attend = bind("stream_stream", "Attend", "AttendRequest", "AttendResponse", _ATTENTION)
        self.optimize = bind("stream_stream", "Optimize", "OptimizeRequest", "OptimizeResponse")
        self.export_state = bind(
            "unary_stream", "ExportState", "ExportStateRequest", "ExportStateResponse"
        )
        self.import_state = bind(
            "stream_unary", "ImportState", "ImportStateRequest", "ImportStateResponse"
        )
