"""Records of runs: one JSON object a line, appended as runs end, so that a leg can go on later.

Every row has `kind`, `task`, `seeds` and, for a run, the curves of all seeds; a row with `only_at`
has them at that horizon alone. Later rows replace earlier ones of the same key.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.evaluation.grid import segment_of
from mnemosyne_metatrain.evaluation.runs import Curves

# Counts of a run that an optimizer without a guard does not have.
GUARD_EVENTS = ("trips", "capped")

Row = dict[str, Any]
Floats = NDArray[np.float64]


def rounded(values: Any) -> Any:
    """Numbers to six digits as nested lists; None for those that are not finite."""
    array = np.asarray(values, np.float64)
    if array.ndim:
        return [rounded(value) for value in array]
    return float(f"{array:.6g}") if np.isfinite(array) else None


def curve_fields(curves: Curves, horizon: int) -> Row:
    """Curves [seeds, segments] up to a horizon, as fields of a row; no guard, no counts of it."""
    end = segment_of(horizon) + 1
    fields = {
        name: rounded(value if np.ndim(value) == 1 else np.asarray(value)[:, :end])
        for name, value in zip(curves._fields, curves, strict=True)
    }
    for name in GUARD_EVENTS:
        if all(value is None for value in fields[name]):
            del fields[name]
    return fields


def values(row: Row, name: str) -> Floats:
    """A field's numbers; nan for those that were not finite."""
    return np.asarray(row[name], np.float64)


def at(row: Row, name: str, horizon: int) -> Floats:
    """A curve's value at a horizon for each seed, [seeds]."""
    return np.asarray([curve[segment_of(horizon)] for curve in row[name]], np.float64)


class Book:
    """Rows by what they are of."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        """Enters rows."""
        self.rows: dict[tuple[Any, ...], Row] = {}
        for row in rows:
            self.enter(row)

    def enter(self, row: Row) -> None:
        """Adds a row, in place of an earlier one of the same key."""
        self.rows[_key(row)] = row

    @classmethod
    def load(cls, paths: Iterable[Path]) -> Book:
        """Reads files; a torn last line is left out, and an absent file is empty."""
        book = cls()
        for path in paths:
            for row in _read(path):
                book.enter(row)
        return book

    def select(self, kind: str, **wanted: Any) -> list[Row]:
        """Rows of a kind whose fields have the wanted values, in order of entry."""
        return [
            row
            for row in self.rows.values()
            if row["kind"] == kind and all(row.get(k) == v for k, v in wanted.items())
        ]

    def learned(self, task: str, name: str, horizon: int, told: bool = False) -> Row | None:
        """A learned run that is as long as asked for, or longer if the horizon is not told."""
        for row in self.select("learned", task=task, name=name, told=told):
            longer = not told and row["horizon"] > horizon and "only_at" not in row
            if row["horizon"] == horizon or longer:
                return row
        return None

    def tuned(
        self, task: str, horizon: int, rule: str = "adam", schedules: Iterable[str] = ()
    ) -> Row | None:
        """The tuned run of a rule at a horizon: the schedule with the least held-out loss."""
        wanted = tuple(schedules)
        rows = [
            row
            for row in self.select("baseline", task=task, rule=rule, horizon=horizon)
            if not wanted or row["schedule"] in wanted
        ]
        return min(rows, key=lambda row: float(at(row, "held_out", horizon).mean()), default=None)

    def tasks(self) -> list[str]:
        """Names of tasks in order of entry."""
        return list(dict.fromkeys(row["task"] for row in self.rows.values()))

    def names(self) -> list[str]:
        """Names of learned optimizers in order of entry."""
        return list(dict.fromkeys(row["name"] for row in self.select("learned")))


def _key(row: Row) -> tuple[Any, ...]:
    names = ("kind", "task", "name", "rule", "schedule", "told", "horizon", "guard")
    return tuple(row.get(name) for name in names)


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class Journal:
    """A file of rows that several threads append to, and the book of all that is in it."""

    def __init__(self, path: Path, keep: Callable[[Row], bool] = lambda row: True) -> None:
        """Opens a file and reads what it has.

        Args:
            path: The file; made when the first row comes.
            keep: Which of the earlier rows still count.
        """
        self._path = path
        self._lock = threading.Lock()
        self.book = Book(row for row in _read(path) if keep(row))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            with path.open("a") as file:
                file.write("\n")

    def append(self, row: Row) -> None:
        """Writes a row at once."""
        line = json.dumps(row, allow_nan=False)
        with self._lock:
            self.book.enter(row)
            with self._path.open("a") as file:
                file.write(line + "\n")
