"""What forks mean for gRPC. Imported before gRPC itself.

gRPC has handlers that run at a fork so that the child can use it too. They close what its threads
in the child of a subprocess or a data loader still poll, which now and then kills that child. They
are off here unless the environment says otherwise: a process that forks data loaders is common, one
that steps on both sides of a fork is not.
"""

from __future__ import annotations

import os

_VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"

os.environ.setdefault(_VARIABLE, "0")


def check_usable_in_child() -> None:
    """Makes sure that gRPC works in a process whose parent has used it.

    Raises:
        RuntimeError: It does not; a call would hang.
    """
    if os.environ.get(_VARIABLE, "0").lower() not in ("1", "true", "yes", "y"):
        raise RuntimeError(
            "this process was forked from one that uses this client; start it with the method "
            f"`spawn`, or set {_VARIABLE}=1 in the environment before Python starts"
        )
