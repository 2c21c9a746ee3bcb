"""Figures of merit of one learned optimizer on one task, against the tuned Adam.

Every comparison is with one Adam: the grid point with the least mean held-out loss at that horizon,
over the schedules that count. Losses are means over seeds before they are divided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mnemosyne_metatrain.evaluation.records import Book, Floats, Row, at, values
from mnemosyne_metatrain.evaluation.runs import SEGMENT
from mnemosyne_metatrain.evaluation.statistics import Indices, OfSeeds

TIE_SHARE = 0.01
CENSOR = 4.0
SPIKE = 2.0
# Loss targets: shares of the way from the first loss to the tuned Adam's last.
TARGETS = (0.5, 0.8, 0.95)
_BROKEN = 1e3


def is_tie(ours: float, theirs: float, first: float) -> bool:
    """Whether both losses are below a hundredth of the first."""
    return ours < TIE_SHARE * first and theirs < TIE_SHARE * first


def ratio_of(ours: float, theirs: float, first: float) -> float:
    """Our loss over theirs; 1 for a tie."""
    return 1.0 if is_tie(ours, theirs, first) else ours / max(theirs, 1e-12)


def ratio_figure(ours: Floats, theirs: Floats, first: float) -> OfSeeds:
    """Our mean loss over theirs as a figure of seeds; arrays [S], large where a run broke."""

    def figure(seeds: Indices) -> float:
        return ratio_of(float(ours[seeds].mean()), float(theirs[seeds].mean()), first)

    return figure


def speed_up(goal: float, horizon: int, known: Mapping[int, float]) -> float:
    """The horizon at which a re-tuned Adam reaches a loss, over ours, at most 4.

    Between horizons the logarithm of the horizon is interpolated linearly in the loss. A loss that
    was reached at the shortest known horizon gives that one: an upper bound of the speed-up. Losses
    are made monotone first: a longer horizon can do what a shorter one does.

    Args:
        goal: Our held-out loss at `horizon`.
        horizon: Ours.
        known: The tuned Adam's losses by horizon; from a quarter to four times ours count.
    """
    horizons = [h for h in sorted(known) if 0.25 <= h / horizon <= CENSOR]
    losses = list(np.minimum.accumulate([known[h] for h in horizons]))
    if not np.isfinite(goal) or goal >= losses[0]:
        return horizons[0] / horizon
    pairs = zip(horizons, horizons[1:], losses, losses[1:], strict=False)
    for left, right, before, after in pairs:
        if goal >= after:
            share = (before - goal) / max(before - after, 1e-12)
            return float(left * (right / left) ** share / horizon)
    return min(horizons[-1] / horizon, CENSOR)


def time_to(target: float, first: float, curve: Floats) -> float:
    """Steps until a curve of held-out losses is at a target; infinite if never.

    It is interpolated between the segments that are known: restored curves have gaps.
    """
    before, steps = first, 0
    if before <= target:
        return 0.0
    for segment, value in enumerate(curve, start=1):
        if not np.isfinite(value):
            continue
        if value <= target:
            share = float((before - target) / max(before - value, 1e-12))
            return steps + share * (SEGMENT * segment - steps)
        before, steps = float(value), SEGMENT * segment
    return float("inf")


@dataclass(frozen=True)
class Comparison:
    """A learned optimizer and the tuned Adam on one task; arrays are over seeds, [S].

    Attributes:
        task: The task.
        horizon: Steps.
        ours: Our held-out losses; a large one where a run broke.
        theirs: The tuned Adam's.
        our_mean: Our mean training losses over the run.
        their_mean: The tuned Adam's.
        first: The mean first training loss.
        adam: Held-out losses [S] of the Adam that was tuned at each horizon.
        diverged: Whether a run of ours broke or ended above the loss it started from.
        spiked: Whether a training loss of ours was above twice the first.
        times: Our steps to each target over the tuned Adam's, at most 4.
        schedule: The tuned Adam's.
    """

    task: str
    horizon: int
    ours: Floats
    theirs: Floats
    our_mean: Floats
    their_mean: Floats
    first: float
    adam: Mapping[int, Floats] = field(default_factory=dict)
    diverged: Floats = field(default_factory=lambda: np.zeros(0))
    spiked: Floats = field(default_factory=lambda: np.zeros(0))
    times: tuple[float, ...] = ()
    schedule: str = ""

    @property
    def seeds(self) -> int:
        """S."""
        return len(self.ours)

    def ratio(self, seeds: Indices | slice = slice(None)) -> float:
        """Held-out loss over the tuned Adam's, on some seeds."""
        return ratio_of(
            float(self.ours[seeds].mean()), float(self.theirs[seeds].mean()), self.first
        )

    def mean_ratio(self, seeds: Indices | slice = slice(None)) -> float:
        """Mean training loss over the run, over the tuned Adam's."""
        return float(self.our_mean[seeds].mean()) / float(self.their_mean[seeds].mean())

    def speed_up(self, seeds: Indices | slice = slice(None)) -> float:
        """Speed-up over the tuned Adam, on some seeds; 1 for a tie."""
        ours, theirs = float(self.ours[seeds].mean()), float(self.theirs[seeds].mean())
        if is_tie(ours, theirs, self.first):
            return 1.0
        known = {horizon: float(losses[seeds].mean()) for horizon, losses in self.adam.items()}
        return speed_up(ours, self.horizon, known)


def compare(
    book: Book,
    task: str,
    name: str,
    horizon: int,
    schedules: Sequence[str],
    told: bool = False,
) -> Comparison | None:
    """Compares a recorded run with the tuned Adam; None if either is not recorded."""
    mine = book.learned(task, name, horizon, told)
    adam = book.tuned(task, horizon, "adam", schedules)
    if mine is None or adam is None:
        return None
    count = min(mine["seeds"], adam["seeds"])
    first = float(values(mine, "first_loss").mean())
    horizons = {r["horizon"] for r in book.select("baseline", task=task, rule="adam")}
    tuned = {h: book.tuned(task, h, "adam", schedules) for h in horizons}
    return Comparison(
        task,
        horizon,
        _whole(at(mine, "held_out", horizon)[:count], _BROKEN * first),
        at(adam, "held_out", horizon)[:count],
        _whole(at(mine, "mean_loss", horizon)[:count], _BROKEN * first),
        at(adam, "mean_loss", horizon)[:count],
        first,
        {h: at(r, "held_out", h)[:count] for h, r in tuned.items() if r is not None},
        diverged(mine, horizon).astype(np.float64),
        spiked(mine).astype(np.float64),
        _times(mine, adam, first, horizon),
        adam["schedule"],
    )


def _whole(losses: Floats, broken: float) -> Floats:
    return np.where(np.isfinite(losses), losses, broken)


def diverged(row: Row, horizon: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Whether runs have a loss that is not finite, or have learned less than nothing, [S].

    That is: the mean training loss of the last segment is above that of the initial parameters on
    the batches of the first segment. One batch would be too few where a run changes its loss by
    less than batches differ. Records without it have the mean first loss of their seeds instead.
    """
    last, held = at(row, "last_loss", horizon), at(row, "held_out", horizon)
    broken = ~np.isfinite(last) | ~np.isfinite(held)
    return np.asarray(broken | (np.nan_to_num(last) > start_losses(row)))


def start_losses(row: Row) -> Floats:
    """The losses that runs start from, [S]."""
    if "start_loss" in row:
        return values(row, "start_loss")
    first = values(row, "first_loss")
    return np.full_like(first, first.mean())


def spiked(row: Row) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Whether runs have a training loss above twice the first, [S]."""
    worst = np.nan_to_num(values(row, "worst_loss"), nan=np.inf)
    return np.asarray(worst > SPIKE * values(row, "first_loss"))


def _times(mine: Row, adam: Row, first: float, horizon: int) -> tuple[float, ...]:
    """Our steps to each target over the tuned Adam's, on curves averaged over seeds."""
    segments = horizon // SEGMENT
    ours = values(mine, "held_out")[:, :segments].mean(axis=0)
    theirs = values(adam, "held_out")[:, :segments].mean(axis=0)
    ratios = []
    for share in TARGETS:
        target = first + share * (float(theirs[-1]) - first)
        our_time, their_time = time_to(target, first, ours), time_to(target, first, theirs)
        ratios.append(min(our_time / max(their_time, 1.0), CENSOR))
    return tuple(ratios)
