"""A daemon process for a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRESETS = ("release", "dev", "asan", "tsan")
# Longest waits for what always comes, on a machine that others keep busy.
START_SECONDS = 60.0
END_SECONDS = 120.0
# Cells of the shared daemon: so small that ordinary tensors have several.
CELL_ELEMENTS = 256


def binary() -> Path:
    """Returns the program that MNEMOSYNED names, or else that of a build preset."""
    if "MNEMOSYNED" in os.environ:
        return Path(os.environ["MNEMOSYNED"])
    for preset in PRESETS:
        path = ROOT / "build" / preset / "bin" / "mnemosyned"
        if path.exists():
            return path
    raise FileNotFoundError("no mnemosyned: build a preset, or set MNEMOSYNED to its path")


class DaemonProcess:
    """A daemon on a free port and a socket of its own; stop() ends it."""

    def __init__(
        self, *flags: str, listen: str = "127.0.0.1:0", environment: dict[str, str] | None = None
    ):
        self._folder = tempfile.TemporaryDirectory(prefix="mnemo-")
        folder = Path(self._folder.name)
        ready_file = folder / "ready.json"
        self._log_file = folder / "log"
        self.log = ""  # What it logged, once it has ended.
        with self._log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    binary(),
                    *("--listen", listen),
                    *("--socket", folder / "socket"),
                    *("--ready-file", ready_file),
                    *flags,
                ],
                stderr=log,
                stdout=log,
                env={**os.environ, **(environment or {})},
            )
        try:
            wait_until(lambda: self._is_ready(ready_file), START_SECONDS)
        except BaseException:
            self.process.kill()
            raise
        ready = json.loads(ready_file.read_text())
        self.tcp = ready["listen"][0]
        self.unix = f"unix:{ready['socket']}"

    def stop(self) -> int:
        """Asks the daemon to end; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self._end()

    def kill(self) -> None:
        """Ends the daemon as a crash would."""
        self.process.kill()
        self._end()

    def _end(self) -> int:
        try:
            return self.process.wait(timeout=END_SECONDS)
        finally:
            self.process.kill()
            if self._log_file.exists():
                self.log = self._log_file.read_text()
            self._folder.cleanup()

    def _is_ready(self, ready_file: Path) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the daemon ended at its start:\n{self._log_file.read_text()}")
        try:
            json.loads(ready_file.read_text())
        except (FileNotFoundError, ValueError):
            return False
        return True


def wait_until(condition, seconds: float) -> None:
    """Polls until `condition()` is true.

    Raises:
        TimeoutError: It stayed false.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still not true after {seconds} s")
        time.sleep(0.01)
