"""Client of mnemosyned, an optimizer as a service: push gradients, get updates back."""

from mnemosyne_client import _fork as _fork  # Before anything that imports gRPC.
from mnemosyne_client import messages
from mnemosyne_client.attention import Attention, AttentionStream, Encoding, Kernel
from mnemosyne_client.client import Client
from mnemosyne_client.credentials import Credentials
from mnemosyne_client.errors import (
    InvalidRequestError,
    MnemosyneError,
    ResourceExhaustedError,
    ServerError,
    SessionLostError,
    SupersededError,
    UnavailableError,
)
from mnemosyne_client.moments import AdamMoments, adam_moments, put_adam_moments
from mnemosyne_client.replay import StreamEvent
from mnemosyne_client.session import Session, State
from mnemosyne_client.stream import OptimizeStream, StepResult
from mnemosyne_client.tensors import Update

__all__ = [
    "AdamMoments",
    "Attention",
    "AttentionStream",
    "Client",
    "Credentials",
    "Encoding",
    "InvalidRequestError",
    "Kernel",
    "MnemosyneError",
    "OptimizeStream",
    "ResourceExhaustedError",
    "ServerError",
    "Session",
    "SessionLostError",
    "State",
    "StepResult",
    "StreamEvent",
    "SupersededError",
    "UnavailableError",
    "Update",
    "adam_moments",
    "messages",
    "put_adam_moments",
]
