"""How long to wait for a daemon that is away, and how often to try."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from typing import Literal

from mnemosyne_client.errors import UnavailableError

logger = logging.getLogger("mnemosyne_client")

OnUnavailable = Literal["wait", "raise"]

_FIRST_DELAY_SECONDS = 0.05
_LONGEST_DELAY_SECONDS = 5.0
_REPORT_EVERY_SECONDS = 30.0


@dataclass(frozen=True)
class WaitPolicy:
    """What to do while the daemon is away.

    Attributes:
        on_unavailable: `wait` tries again until `wait_seconds` are over, and says so in the log
            `mnemosyne_client`; `raise` gives up at once.
        wait_seconds: The longest wait, in seconds.
    """

    on_unavailable: OnUnavailable = "wait"
    wait_seconds: float = 600.0

    def __post_init__(self) -> None:
        """Refuses values without a meaning.

        Raises:
            ValueError: A value is not among those documented.
        """
        if self.on_unavailable not in ("wait", "raise"):
            raise ValueError(f"on_unavailable is 'wait' or 'raise', not {self.on_unavailable!r}")
        if not self.wait_seconds >= 0:
            raise ValueError(f"wait_seconds is at least 0, not {self.wait_seconds}")


class Patience:
    """The tries of one call or step. Not thread-safe."""

    def __init__(self, policy: WaitPolicy, what: str, *, free_tries: int = 0):
        """Starts before the first try.

        Args:
            policy: What to do while the daemon is away.
            what: Who is waited for, for the log, such as `the daemon at 127.0.0.1:7717`.
            free_tries: How many failures are tried again at once under either policy. A stream
                that was cut while it idled deserves one.
        """
        self._policy = policy
        self._what = what
        self._free_tries = free_tries
        self._failures = 0
        self._started = 0.0
        self._reported = 0.0

    def pause(self, error: UnavailableError) -> None:
        """Sleeps before the next try.

        Args:
            error: Why the last try failed.

        Raises:
            UnavailableError: There is no next try: `error` itself, or that the time is over.
        """
        now = time.monotonic()
        if self._free_tries > 0:
            self._free_tries -= 1
            return
        if self._policy.on_unavailable == "raise":
            raise error
        if self._failures == 0:
            self._started = now
        waited = now - self._started
        if waited >= self._policy.wait_seconds:
            raise UnavailableError(
                f"{self._what} stayed away for {waited:.0f} s: {error.message}",
                code=error.code,
                reason=error.reason,
                metadata=error.metadata,
            ) from error
        if self._failures == 0 or now - self._reported >= _REPORT_EVERY_SECONDS:
            logger.warning(
                "%s is away (%s); waiting up to %.0f s more",
                self._what,
                error.message,
                self._policy.wait_seconds - waited,
            )
            self._reported = now
        delay = min(_FIRST_DELAY_SECONDS * 2 ** min(self._failures, 16), _LONGEST_DELAY_SECONDS)
        self._failures += 1
        # Jitter keeps many clients of one daemon from knocking together.
        delay *= random.uniform(0.5, 1.0)
        time.sleep(min(delay, max(0.0, self._policy.wait_seconds - waited)))

    def succeed(self) -> None:
        """Says in the log that the daemon is back, if its absence was told there."""
        if self._failures:
            waited = time.monotonic() - self._started
            logger.warning("%s is back after %.1f s", self._what, waited)
