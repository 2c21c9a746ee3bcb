"""What a run tells while it goes on: metrics in a CSV, and progress on the terminal."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from mnemosyne_metatrain.training.outer import OuterMetrics

_REPORT_EVERY = 100
_REPORT_SECONDS = 10.0
_BAR_WIDTH = 24
_NAMES = ("iteration", "family", "variant")


class Journal:
    """The metrics of a run, which a resumed leg goes on with.

    Steps are added without waiting for the device; `report` waits.
    """

    def __init__(
        self, path: Path, variants: Sequence[str], first: int, stream: TextIO | None = None
    ) -> None:
        """Opens the file and drops rows from iteration `first` on: a killed leg may have left some.

        Args:
            path: The CSV.
            variants: Names of the variants.
            first: The first iteration of this leg; 0 starts a new file.
            stream: Where progress goes, standard output by default; a terminal gets a bar.
        """
        kept = _rows_before(path, first) if first else []
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerows([[*_NAMES, *OuterMetrics._fields], *kept])
        self._variants = tuple(variants)
        self._first = first
        self._stream = stream or sys.stdout
        self._pending: list[tuple[int, str, OuterMetrics]] = []
        self._start = self._reported = time.time()

    def add(self, iteration: int, family: str, metrics: OuterMetrics) -> None:
        """Takes in the metrics of an outer step, leaves [P]."""
        self._pending.append((iteration, family, metrics))

    def is_due(self, done: int) -> bool:
        """Whether it is time for a report."""
        return done % _REPORT_EVERY == 0 or time.time() - self._reported > _REPORT_SECONDS

    def rate(self, done: int) -> float:
        """Outer steps a second, compilation not counted."""
        return (done - self._first) / max(time.time() - self._start, 1e-9)

    def report(self, done: int, end: int) -> None:
        """Writes the metrics of the steps since the last report, and progress."""
        if not self._pending:
            return
        losses, dropped = [], 0.0
        for iteration, family, metrics in self._pending:
            columns = [np.asarray(x) for x in metrics]
            losses.append(np.asarray(metrics.meta_loss))
            dropped += float(np.sum(np.asarray(metrics.dropped)))
            rows = zip(self._variants, np.stack(columns, axis=-1), strict=True)
            for variant, row in rows:
                self._writer.writerow([iteration, family, variant, *(f"{v:.6g}" for v in row)])
        self._file.flush()
        self._pending = []
        self._reported = time.time()
        rate = self.rate(done)
        left = (end - done) / rate
        mean = " ".join(f"{x:.3f}" for x in np.mean(losses, axis=0))
        line = f"{done}/{end} {rate:.1f} it/s {left:.0f} s left dropped {dropped:.0f} loss {mean}"
        if self._stream.isatty():
            filled = round(_BAR_WIDTH * done / max(end, 1))
            bar = "#" * filled + "." * (_BAR_WIDTH - filled)
            print(f"\r\033[K[{bar}] {line}", end="", file=self._stream, flush=True)
        else:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Closes the file, and ends the bar."""
        if self._stream.isatty():
            print(file=self._stream)
        self._file.close()


def _rows_before(path: Path, first: int) -> list[list[Any]]:
    """Reads the rows of earlier iterations; a file with other columns is refused."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if header != [*_NAMES, *OuterMetrics._fields]:
        raise ValueError(f"{path} has other columns than this program writes")
    return [row for row in rows if len(row) == len(header) and int(row[0]) < first]
