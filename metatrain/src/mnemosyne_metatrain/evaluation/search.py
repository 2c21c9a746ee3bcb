"""How a classic rule is tuned: two stages at a horizon, and again at the horizons around it.

1. All points of the grid run on one seed, to the end of the horizon that they are tuned for. While
   the best rate of a rule and schedule is the least or the largest tried, rates are added there.
2. The best few points of each rule and schedule run on all seeds. The one with the least mean
   held-out loss is the tuned one.

For a speed-up, the same rule is tuned again at a quarter to four times the horizon: the tuned
point's rate and its neighbours on the grid are tried on all seeds, further rates while the best is
at an edge. Warm-up (a share of the horizon), clipping and decay are inherited.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.evaluation.grid import Grid, best_of, beyond_edge, segment_of
from mnemosyne_metatrain.evaluation.records import Row, curve_fields
from mnemosyne_metatrain.evaluation.rules import Point
from mnemosyne_metatrain.evaluation.runs import Curves, curves_of

# Runs points for a horizon on the first seeds; curves [points, seeds, ...], all read or the end.
RunPoints = Callable[[list[Point], int, int, bool], Curves]

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)


def final_losses(curves: Curves, horizon: int) -> NDArray[np.float64]:
    """Held-out losses at a horizon, [points, seeds]; infinite where a run broke."""
    values = np.asarray(curves.held_out, np.float64)[:, :, segment_of(horizon)]
    return np.where(np.isfinite(values), values, np.inf)


def _scores(points: list[Point], curves: Curves, horizon: int) -> dict[Point, float]:
    means = final_losses(curves, horizon).mean(axis=1)
    return {point: float(mean) for point, mean in zip(points, means, strict=True)}


def first_stage(
    grid: Grid, horizon: int, run: RunPoints, read_all: bool = False
) -> tuple[list[Point], Curves]:
    """Runs all points on one seed, and more while the best is at an edge."""
    points = [p for g in grid.rules for schedule in grid.schedules for p in g.points(schedule)]
    tried: list[Point] = []
    pieces: list[Curves] = []
    for _ in range(grid.extensions + 1):
        pieces.append(run(points, horizon, 1, read_all))
        tried += points
        scores = _scores(tried, _joined(pieces), horizon)
        points = [
            point
            for g in grid.rules
            for schedule in grid.schedules
            for point in g.at_rates(
                schedule, beyond_edge(scores, g.rule, schedule, g.ratio, grid.growth)
            )
        ]
        if not points:
            break
    return tried, _joined(pieces)


def _joined(pieces: list[Curves]) -> Curves:
    return curves_of(np.concatenate(arrays) for arrays in zip(*pieces, strict=True))


def finalists(grid: Grid, scores: Mapping[Point, float]) -> list[Point]:
    """The best points of each rule and schedule."""
    chosen = []
    for g in grid.rules:
        for schedule in grid.schedules:
            mine = [
                (score, point)
                for point, score in scores.items()
                if point.rule == g.rule and point.schedule == schedule and math.isfinite(score)
            ]
            chosen += [point for _, point in sorted(mine)[: g.finalists]]
    return chosen


def search(grid: Grid, horizon: int, seeds: int, run: RunPoints) -> list[Row]:
    """Tunes all rules at a horizon; one row for each rule and schedule.

    A row has the tuned point, its curves on all seeds, and the mean losses of the other finalists.
    Where there is one seed, the first stage has said all.
    """
    points, curves = first_stage(grid, horizon, run, read_all=seeds == 1)
    scores = _scores(points, curves, horizon)
    finite = sum(math.isfinite(score) for score in scores.values())
    facts = {"stage": 2, "tried": len(points), "finite": finite}
    if seeds > 1:
        points = finalists(grid, scores)
        curves = run(points, horizon, seeds, True)
    return _winners(points, curves, horizon, facts)


def retune(
    grid: Grid, tuned: Iterable[Point], horizon: int, seeds: int, run: RunPoints
) -> list[Row]:
    """Tunes at another horizon, from points that were tuned nearby; one row a schedule."""
    points: list[Point] = []
    for point in tuned:
        ratio = grid.of_rule(point.rule).ratio
        points += [replace(point, rate=rate) for rate in _around(point.rate, ratio)]
    tried = list(dict.fromkeys(points))
    curves = run(tried, horizon, seeds, False)
    for _ in range(grid.extensions):
        scores = _scores(tried, curves, horizon)
        more = []
        for rule, schedule in dict.fromkeys((p.rule, p.schedule) for p in tried):
            best = best_of(scores, rule, schedule)
            rates = beyond_edge(scores, rule, schedule, grid.of_rule(rule).ratio, 1)
            more += [replace(best, rate=rate) for rate in rates if best is not None]
        if not more:
            break
        curves = _joined([curves, run(more, horizon, seeds, False)])
        tried += more
    return _winners(tried, curves, horizon, {"stage": "retuned", "tried": len(tried)})


def _around(rate: float, ratio: float) -> tuple[float, float, float]:
    return rate / ratio, rate, rate * ratio


def _winners(points: list[Point], curves: Curves, horizon: int, facts: Row) -> list[Row]:
    scores = _scores(points, curves, horizon)
    rows = []
    for rule, schedule in dict.fromkeys((p.rule, p.schedule) for p in points):
        best = best_of(scores, rule, schedule)
        if best is None:
            continue
        index = points.index(best)
        others = [
            [p.rate, p.warmup, p.clip, p.decay, _plain(scores[p])]
            for p in points
            if (p.rule, p.schedule) == (rule, schedule)
        ]
        chosen = curves_of(np.asarray(value)[index] for value in curves)
        rows.append(
            {
                "kind": "baseline",
                "rule": rule,
                "schedule": schedule,
                "horizon": horizon,
                "point": asdict(best),
                "finalists": others,
                **facts,
                **curve_fields(chosen, horizon),
            }
        )
    return rows


def _plain(value: float) -> Any:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def missing_horizon(goal: float, horizon: int, known: Mapping[int, float]) -> int | None:
    """The next horizon at which the rule has to be tuned to tell a speed-up, if any.

    Args:
        goal: Our loss at `horizon`.
        horizon: Ours.
        known: Tuned losses by horizon; that of `horizon` is there.

    Returns:
        A horizon from a quarter to four times ours that is not known and that matters: towards
        longer ones as long as the goal is not reached, towards shorter ones as long as it is.
    """
    reached = known[horizon] <= goal
    factors = sorted((f for f in MULTIPLES if f < 1.0), reverse=True)
    if not reached:
        factors = sorted(f for f in MULTIPLES if f > 1.0)
    for factor in factors:
        other = int(horizon * factor)
        if other not in known:
            return other
        if (known[other] <= goal) != reached:
            return None
    return None
