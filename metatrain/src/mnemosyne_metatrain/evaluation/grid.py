"""The grids of the classic rules: which points are tried, and how a grid grows at an edge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from mnemosyne_metatrain.evaluation.rules import SCHEDULES, Point
from mnemosyne_metatrain.evaluation.runs import SEGMENT


@dataclass(frozen=True)
class RuleGrid:
    """The points of one rule, for each schedule.

    Attributes:
        rule: One of RULES.
        low: Log10 of the least rate.
        high: Log10 of the largest rate.
        num_rates: Rates, evenly spaced in the logarithm.
        warmups: Shares of the horizon.
        clips: Bounds of the gradient's norm; 0 is none.
        decays: Weight decays.
        finalists: Points of each schedule that are run on all seeds.
    """

    rule: str
    low: float
    high: float
    num_rates: int = 14
    warmups: tuple[float, ...] = (0.0,)
    clips: tuple[float, ...] = (0.0,)
    decays: tuple[float, ...] = (0.0,)
    finalists: int = 3

    @property
    def ratio(self) -> float:
        """Of a rate to the one below it."""
        return float(10.0 ** ((self.high - self.low) / (self.num_rates - 1)))

    def at_rates(self, schedule: str, rates: Iterable[float]) -> list[Point]:
        """All points of a schedule with the given rates."""
        axes = product(rates, self.warmups, self.clips, self.decays)
        return [Point(self.rule, schedule, *values) for values in axes]

    def points(self, schedule: str) -> list[Point]:
        """All points of a schedule."""
        rates = np.logspace(self.low, self.high, self.num_rates)
        return self.at_rates(schedule, [float(rate) for rate in rates])


@dataclass(frozen=True)
class Grid:
    """What a search tries.

    Attributes:
        rules: A grid for each rule.
        schedules: Schedules that are tried.
        extensions: How often a grid may grow at an edge.
        growth: Rates that are added at a time.
    """

    rules: tuple[RuleGrid, ...]
    schedules: tuple[str, ...] = SCHEDULES
    extensions: int = 3
    growth: int = 2

    def width(self, seeds: int) -> int:
        """Most runs that are wanted side by side."""
        points = sum(len(g.points(s)) for g in self.rules for s in self.schedules)
        last = sum(g.finalists for g in self.rules) * len(self.schedules) * seeds
        return max(points, last)

    def of_rule(self, rule: str) -> RuleGrid:
        """The grid of a rule."""
        return next(grid for grid in self.rules if grid.rule == rule)


ADAM = RuleGrid("adam", -4.5, -0.5, 14, (0.0, 0.05), (0.0, 1.0), (0.0, 0.01, 0.1), 8)
FULL = Grid((ADAM, RuleGrid("sgd", -3.5, 0.5), RuleGrid("lion", -5.5, -1.5)))
# Five rates of a cosine alone, for a net that is too large for more.
SMALL = Grid((RuleGrid("adam", -4.0, -2.0, 5, finalists=1),), ("cosine",), 1, 1)


def best_of(scores: Mapping[Point, float], rule: str, schedule: str) -> Point | None:
    """The point with the least score; None if there is none that is finite."""
    found = [
        (score, point)
        for point, score in scores.items()
        if point.rule == rule and point.schedule == schedule and math.isfinite(score)
    ]
    return min(found)[1] if found else None


def beyond_edge(
    scores: Mapping[Point, float], rule: str, schedule: str, ratio: float, growth: int
) -> list[float]:
    """Rates to add because the best one is the least or the largest that was tried."""
    best = best_of(scores, rule, schedule)
    if best is None:
        return []
    rates = sorted({p.rate for p in scores if p.rule == rule and p.schedule == schedule})
    if best.rate == rates[0]:
        return [rates[0] / ratio**k for k in range(1, growth + 1)]
    if best.rate == rates[-1]:
        return [rates[-1] * ratio**k for k in range(1, growth + 1)]
    return []


def segment_of(horizon: int) -> int:
    """Index of the segment that ends at a horizon.

    Raises:
        ValueError: If no segment ends there.
    """
    if horizon % SEGMENT:
        raise ValueError(f"horizon {horizon} is not a multiple of {SEGMENT}")
    return horizon // SEGMENT - 1
