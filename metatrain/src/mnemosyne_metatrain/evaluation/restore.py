"""Rows of records from a `results.json`, so that a report can go on where its records are gone.

What `results.json` keeps of a run is enough for every figure at the horizons that it was judged at.
Files of before hold a run's losses at its own horizon alone, and one mean curve: a learned run of
theirs is not read at shorter horizons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mnemosyne_metatrain.evaluation.grid import segment_of
from mnemosyne_metatrain.evaluation.metrics import SPIKE
from mnemosyne_metatrain.evaluation.records import Row, rounded

# Fields of a run that are neither curves nor counts.
FACTS = (
    "task", "name", "rule", "schedule", "told", "horizon", "seeds", "parameters", "weights",
    "point", "stage", "tried", "device", "jax", "fingerprint", "only_at",
)  # fmt: skip
# A run's scalars of each seed, by their names in records.
SCALARS = ("first_loss", "worst_loss", "start_loss", "trips", "capped")
CURVES = ("held_out", "mean_loss", "last_loss")


def restored(results: Row) -> tuple[list[Row], list[Row]]:
    """Rows of learned runs with counts of divergences, and rows of baselines.

    Counts that compared a run's end with its first batch are left out where something diverged.
    """
    learned = [_run("learned", row) for row in results["learned_runs"]]
    counts = results["divergence_counts"]
    learned += [row for row in counts if "start_loss" in row or not row["diverged"]]
    learned += results.get("fresh_runs", [])
    baselines = [_run("baseline", row) for row in results["baseline_runs"]]
    return learned, [*baselines, *_searched(baselines)]


def condensed_curves(row: Row, places: Iterable[int]) -> Row:
    """A run's curves at some segments, and its scalars, as `restored` reads them.

    Args:
        row: A row of records.
        places: Indices of segments.
    """
    kept = [int(place) for place in places]
    curves = {name: [[curve[k] for k in kept] for curve in row[name]] for name in CURVES}
    scalars = {name: row[name] for name in SCALARS if name in row}
    return {"segments": [k + 1 for k in kept], **curves, **scalars}


def _searched(baselines: list[Row]) -> Iterator[Row]:
    """Rows which say that all rules are tuned at a horizon."""
    seen: dict[tuple[Any, ...], Row] = {}
    for row in baselines:
        if row["stage"] == 2:
            facts = {name: row[name] for name in ("task", "horizon", "seeds")}
            if "fingerprint" in row:
                facts["fingerprint"] = row["fingerprint"]
            seen[(row["task"], row["horizon"])] = {"kind": "searched", **facts}
    yield from seen.values()


def _run(kind: str, row: Row) -> Row:
    facts = {"kind": kind, **{name: row[name] for name in FACTS if name in row}}
    if "parameters" not in facts:
        facts["parameters"] = _size(row["task"])
    if "segments" in row:
        scalars = {name: row[name] for name in SCALARS if name in row}
        return {**facts, **scalars, **_spread(row, segment_of(row["horizon"]) + 1)}
    return {**facts, **_earlier(row)}


def _spread(row: Row, count: int) -> Row:
    """Curves [seeds, count] with None where nothing was kept."""
    curves: Row = {}
    for name in CURVES:
        curves[name] = [[None] * count for _ in row[name]]
        for full, kept in zip(curves[name], row[name], strict=True):
            for segment, value in zip(row["segments"], kept, strict=True):
                full[segment - 1] = value
    return curves


def _earlier(row: Row) -> Row:
    """Curves of a row of before: the mean of all seeds up to the end, and each seed's end."""
    count = segment_of(row["horizon"]) + 1
    middle: list[Any] = [None] * count
    for segment, value in row["curve_of_125_steps"]:
        middle[segment - 1] = value
    ends = {"held_out": "held_out", "mean_loss": "mean_train", "last_loss": "last_train"}
    curves: Row = {
        name: [[None] * (count - 1) + [end] for end in row[source]] for name, source in ends.items()
    }
    for curve in curves["held_out"]:
        curve[: count - 1] = middle[: count - 1]
    first = np.asarray(row["first_train"], np.float64)
    worst = first.copy()
    worst[: row["spiked"]] *= 2.0 * SPIKE
    return {
        **curves,
        "first_loss": row["first_train"],
        "worst_loss": rounded(worst),
        "only_at": row["horizon"],
    }


def _size(task: str) -> int:
    from mnemosyne_metatrain.suite import every_task

    return sum(spec.size for spec in every_task()[task]().specs)
