"""The gradients of steps that a crash of the daemon could still lose."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mnemosyne_client import messages

EventKind = Literal["reconnected", "resent", "lost", "durability"]


@dataclass(frozen=True)
class StreamEvent:
    """What became of a stream, beside its steps.

    Attributes:
        kind: `reconnected`: another connection was opened; `resent`: the daemon had lost steps and
            got them again; `lost`: steps are lost for good and training goes on without them;
            `durability`: the daemon cannot keep steps safe for the moment, or can again.
        message: What happened, for people.
        first_step: The first step it is about; 0 for none.
        last_step: The last step it is about.
    """

    kind: EventKind
    message: str
    first_step: int = 0
    last_step: int = 0


@dataclass
class _Entry:
    """One step: its begin, and its encoded gradients in memory or in a file."""

    begin: bytes
    arrays: list[Any] | Path
    byte_count: int


class ReplayBuffer:
    """Keeps the last steps within a bound, in memory or in a folder.

    The oldest steps leave when the bound is reached; has() tells what is still there. Not
    thread-safe.
    """

    def __init__(self, bytes_max: int, folder: str | None = None) -> None:
        """Starts empty.

        Args:
            bytes_max: The most bytes of gradients; 0 keeps none.
            folder: Where gradients lie; None is memory. Files are removed with the buffer.
        """
        self._bytes_max = bytes_max
        self._folder = (
            None
            if folder is None
            else tempfile.TemporaryDirectory(prefix=f"replay-{os.getpid()}-", dir=folder)
        )
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._byte_count = 0

    def add(self, begin: messages.StepBegin, arrays: list[Any]) -> None:
        """Keeps a step that was answered; its arrays are copied."""
        size = sum(0 if array is None else int(array.nbytes) for array in arrays)
        self._forget(begin.step)
        if size > self._bytes_max:
            self.clear()
            return
        while self._entries and self._byte_count + size > self._bytes_max:
            self._forget(next(iter(self._entries)))
        kept: list[Any] | Path
        if self._folder is None:
            kept = [None if array is None else np.array(array) for array in arrays]
        else:
            kept = Path(self._folder.name) / f"{begin.step}.npz"
            there = {str(i): array for i, array in enumerate(arrays) if array is not None}
            np.savez(kept, count=np.int64(len(arrays)), **there)
        self._entries[begin.step] = _Entry(begin.SerializeToString(), kept, size)
        self._byte_count += size

    def has(self, first: int, last: int) -> bool:
        """Returns whether all steps from `first` to `last` are here."""
        return all(step in self._entries for step in range(first, last + 1))

    def get(self, step: int) -> tuple[messages.StepBegin, list[Any]]:
        """Returns the begin and the gradients of a step that is here."""
        entry = self._entries[step]
        begin = messages.StepBegin.FromString(entry.begin)
        if not isinstance(entry.arrays, Path):
            return begin, entry.arrays
        with np.load(entry.arrays) as file:
            count = int(file["count"])
            return begin, [file[str(i)] if str(i) in file else None for i in range(count)]

    def trim(self, durable_step: int) -> None:
        """Lets go of all steps up to `durable_step`, which the daemon cannot lose any more."""
        while self._entries and next(iter(self._entries)) <= durable_step:
            self._forget(next(iter(self._entries)))

    def clear(self) -> None:
        """Lets go of everything."""
        for step in list(self._entries):
            self._forget(step)

    def _forget(self, step: int) -> None:
        entry = self._entries.pop(step, None)
        if entry is None:
            return
        self._byte_count -= entry.byte_count
        if isinstance(entry.arrays, Path):
            entry.arrays.unlink(missing_ok=True)
