"""`results.json`: the headline, all figures, and every run condensed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mnemosyne_metatrain.data.cache import data_folder, read_manifest
from mnemosyne_metatrain.evaluation.fresh import fresh_summary
from mnemosyne_metatrain.evaluation.grid import FULL, SMALL, segment_of
from mnemosyne_metatrain.evaluation.judge import AGAINST
from mnemosyne_metatrain.evaluation.metrics import diverged, spiked
from mnemosyne_metatrain.evaluation.records import Book, Row, at, rounded, values
from mnemosyne_metatrain.evaluation.restore import FACTS, condensed_curves
from mnemosyne_metatrain.evaluation.statistics import interquartile_mean
from mnemosyne_metatrain.evaluation.summary import Summary, against_other, summarize
from mnemosyne_metatrain.suite import CHECK, TEST

_CURVE_POINTS = 16


def thinned(curve: Sequence[Any] | np.ndarray[Any, Any]) -> list[Any]:
    """At most 16 values of a curve, evenly spaced, with the last."""
    count = len(curve)
    places = np.unique(np.linspace(0, count - 1, min(count, _CURVE_POINTS)).round().astype(int))
    return [[int(p) + 1, curve[p]] for p in places]


def condensed(row: Row, horizons: Sequence[int] = ()) -> Row:
    """A run with at most 16 places of its curves, and those at the horizons of the report."""
    end = row["horizon"]
    read = np.isfinite(values(row, "held_out")).all(axis=0)
    known = np.flatnonzero(read)
    places = {int(known[k - 1]) for k, _ in thinned(known)}
    judged = {segment_of(h) for h in horizons if h <= end and "only_at" not in row}
    places |= judged.intersection(known.tolist()) | {segment_of(end)}
    return {
        **{name: row[name] for name in FACTS if name in row},
        "diverged": int(diverged(row, end).sum()),
        "spiked": int(spiked(row).sum()),
        **condensed_curves(row, sorted(places)),
    }


def transposed_changes(book: Book, names: Sequence[str], horizon: int) -> list[Row]:
    """Final losses of nets that are stored with reversed axes, over the same nets' as they are."""
    rows = []
    for check in CHECK:
        task = check.removesuffix("_transposed")
        for name in names:
            pair = [book.learned(t, name, horizon) for t in (check, task)]
            if pair[0] is None or pair[1] is None:
                continue
            reversed_, plain = (float(at(r, "held_out", horizon).mean()) for r in pair if r)
            ratio = reversed_ / plain
            rows.append({"task": task, "name": name, "horizon": horizon, "ratio": ratio})
    return rows


def baseline_checks(book: Book) -> list[Row]:
    """How far repeated baselines are from their records."""
    rows = []
    for row in book.select("check"):
        before, again = values(row, "recorded"), values(row, "again")
        keys = ("task", "rule", "schedule", "horizon")
        off = float(abs(again.mean() / before.mean() - 1.0))
        rows.append({**{k: row[k] for k in keys}, "mean_off_by": rounded(off)})
    return rows


def headline(main: Summary | None, counts: Sequence[Row], facts: Row) -> Row:
    """What is quoted: the shipped weights on the test set, horizon not told.

    Args:
        main: The shipped weights against the best Adam of the grid.
        counts: Divergence counts with the guard on and off.
        facts: What the records do not know: minutes of meta-training, commit.
    """
    result: Row = {
        "speedup_iqm": None,
        "speedup_ci95": None,
        "val_loss_ratio_iqm": None,
        "divergences_guard_on": _count(counts, True),
        "divergences_guard_off": _count(counts, False),
        "guard_trips_a_run": _trips(counts),
        "meta_training_minutes": None,
    }
    if main is not None:
        result |= {
            "name": main.name,
            "horizon": main.horizon,
            "against": main.against,
            "tasks": len(main.tasks),
            "speedup_iqm": rounded(main.speedup_iqm),
            "speedup_ci95": rounded(main.speedup_ci95),
            "val_loss_ratio_iqm": rounded(main.val_loss_ratio_iqm),
            "val_loss_ratio_ci95": rounded(main.val_loss_ratio_ci95),
            "mean_loss_ratio_iqm": rounded(main.mean_loss_ratio_iqm),
            "runs": main.runs,
            "diverged_runs": main.diverged,
            "spiked_runs": main.spiked,
        }
    return {**result, **facts}


def _trips(counts: Sequence[Row]) -> float | None:
    """The guard's trips a run, over all runs that counted them."""
    trips = [count for row in counts if row["guard"] for count in row.get("trips", ())]
    return float(rounded(np.mean(trips))) if trips else None


def _count(counts: Sequence[Row], guard: bool) -> int | None:
    found = [row["diverged"] for row in counts if row["guard"] == guard]
    return int(sum(found)) if found else None


def collect(
    book: Book, names: Sequence[str], horizons: Sequence[int], main_horizon: int, facts: Row
) -> Row:
    """Everything that documents and plots show, as plain values."""
    tasks = [task for task in TEST if task in book.tasks()]
    summaries = [
        summary
        for told in (False, True)
        for name in names
        for horizon in horizons
        for against in (("cosine",) if told else AGAINST)
        if (summary := summarize(book, tasks, name, horizon, against, told)) is not None
    ]
    main = next(
        (
            s
            for s in summaries
            if (s.name, s.horizon, s.against, s.told) == (names[0], main_horizon, "best", False)
        ),
        None,
    )
    others = [
        row
        for other in names[1:]
        for horizon in horizons
        if (row := against_other(book, tasks, names[0], other, horizon)) is not None
    ]
    fresh = [
        row
        for name in names
        for horizon in horizons
        for against in AGAINST
        if (row := fresh_summary(book, tasks, name, horizon, against)) is not None
    ]
    return {
        "headline": headline(main, book.select("count"), facts),
        "figures": [_rounded_row(s.row()) for s in summaries],
        "against_others": [_rounded_row(row) for row in others],
        "best_on_each": best_on_each(book, tasks, names, main_horizon),
        "transposed": transposed_changes(book, names[:1], main_horizon),
        "divergence_counts": book.select("count"),
        "fresh_seeds": [_rounded_row(row) for row in fresh],
        "fresh_runs": book.select("fresh"),
        "baseline_checks": baseline_checks(book),
        "grid": {"full": asdict(FULL), "small": asdict(SMALL)},
        "data": read_manifest(data_folder())["datasets"],
        "learned_runs": [condensed(row, horizons) for row in book.select("learned")],
        "baseline_runs": [condensed(row, horizons) for row in book.select("baseline")],
    }


def best_on_each(book: Book, tasks: Sequence[str], names: Sequence[str], horizon: int) -> Row:
    """The second figure: against the Adam that is best at each metric by itself.

    The mean loss over the run is compared with the tuned schedule that has the least of it.
    """
    ratios = {}
    for task in tasks:
        mine = book.learned(task, names[0], horizon)
        rows = book.select("baseline", task=task, rule="adam", horizon=horizon)
        if mine is not None and rows:
            least = min(float(at(row, "mean_loss", horizon).mean()) for row in rows)
            ratios[task] = float(at(mine, "mean_loss", horizon).mean()) / least
    iqm = rounded(interquartile_mean(list(ratios.values())))
    return {"horizon": horizon, "mean_loss_ratio_iqm": iqm, "ratios": _rounded_row(ratios)}


def _rounded_row(row: Row) -> Row:
    return {name: _rounded(value) for name, value in row.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return _rounded_row(value)
    if isinstance(value, float):
        return rounded(value)
    if isinstance(value, tuple | list) and all(isinstance(v, float) for v in value):
        return rounded(value)
    return value
