"""What can go wrong, as exceptions.

Every failure of a call or a step is one of five exceptions under `MnemosyneError`. Each carries the
daemon's `reason`, a constant such as `RESEND_DIFFERS`, and the values behind it. No `grpc.RpcError`
leaves this package.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from mnemosyne_client import messages

_DETAILS_KEY = "grpc-status-details-bin"
_ERROR_INFO_URL = "type.googleapis.com/google.rpc.ErrorInfo"


class MnemosyneError(Exception):
    """The base of this package's exceptions.

    Attributes:
        message: What is wrong and how to mend it.
        code: Name of the gRPC status code, such as `INVALID_ARGUMENT`.
        reason: A constant in UPPER_SNAKE_CASE; empty if the failure came from the network.
        metadata: Values behind the message, such as `expected_step`.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Makes an error; see the class for the arguments."""
        super().__init__(f"{message} [{reason or code}]")
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})


class InvalidRequestError(MnemosyneError):
    """The caller's request is wrong. Nothing of it was carried out; repeating it does not help."""


class SessionLostError(MnemosyneError):
    """The session does not exist, or no longer stands where this client left it."""


class SupersededError(MnemosyneError):
    """A newer stream holds the session. Whoever opened it goes on; this one must not reopen."""


class ResourceExhaustedError(MnemosyneError):
    """The daemon has no room for this now: memory, sessions, parameters or its queue."""


class UnavailableError(MnemosyneError):
    """The daemon cannot be reached or does not answer in time. The session stays resumable."""


class ServerError(MnemosyneError):
    """The daemon failed, or bytes were damaged on their way."""


_INVALID_CODES = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
}

# Without a reason, as the daemon gives one with all its errors.
_BROKEN_CODES = {"CANCELLED", "INTERNAL", "UNKNOWN"}


def make_error(
    code: str, reason: str, message: str, metadata: Mapping[str, str] | None = None
) -> MnemosyneError:
    """Returns the exception for a failure.

    Args:
        code: Name of the gRPC status code.
        reason: The daemon's reason; empty for a failure of the network.
        message: The daemon's message.
        metadata: Values behind the message.
    """
    kind: type[MnemosyneError] = ServerError
    if reason == "SESSION_NOT_FOUND":
        kind = SessionLostError
    elif code == "ABORTED":
        kind = SupersededError
    elif code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        kind = UnavailableError
    elif code == "RESOURCE_EXHAUSTED":
        kind = ResourceExhaustedError
    elif code in _INVALID_CODES:
        kind = InvalidRequestError
    return kind(message, code=code, reason=reason, metadata=metadata)


def error_of_step(error: messages.StepError) -> MnemosyneError:
    """Returns the exception for a step that was refused in band."""
    return make_error(_code_name(error.code), error.reason, error.message, error.metadata)


def error_of_call(error: grpc.RpcError) -> MnemosyneError:
    """Returns the exception for a failed call, with the ErrorInfo of its trailers."""
    reason = ""
    metadata: dict[str, str] = {}
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            reason, metadata = _decode_details(value)
    message = error.details() or "no details"
    code = error.code().name
    # What gRPC makes of a daemon that ends or a connection that is reset, by the phase that the
    # call was in. gRPC's own words for a fault on this side begin with "Exception".
    if not reason and code in _BROKEN_CODES and not message.startswith("Exception"):
        return UnavailableError(f"{message} ({code})", code="UNAVAILABLE")
    return make_error(code, reason, message, metadata)


def _decode_details(trailer: bytes) -> tuple[str, dict[str, str]]:
    for detail in messages.ErrorStatus.FromString(trailer).details:
        if detail.type_url == _ERROR_INFO_URL:
            info = messages.ErrorInfo.FromString(detail.value)
            return info.reason, dict(info.metadata)
    return "", {}


def _code_name(number: int) -> str:
    for code in grpc.StatusCode:
        if code.value[0] == number:
            return str(code.name)
    return "UNKNOWN"
