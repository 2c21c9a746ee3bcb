"""Interquartile means over tasks, and their intervals by a paired bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# A figure of one task, from the seeds that are drawn.
OfSeeds = Callable[[Indices], float]


def interquartile_mean(values: ArrayLike) -> float:
    """The mean of the middle half; a quarter of the values, rounded down, is cut at each end."""
    ordered = np.sort(np.asarray(values, np.float64))
    if not len(ordered):
        return float("nan")
    cut = len(ordered) // 4
    return float(np.mean(ordered[cut : len(ordered) - cut]))


def bootstrap_interval(
    figures: Sequence[OfSeeds],
    seeds: Sequence[int],
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """A 95 % interval of the interquartile mean over tasks; the same for the same arguments.

    Tasks are drawn with replacement, then seeds of each drawn task, also with replacement. A figure
    that compares two optimizers reads the same seeds of both, which makes the bootstrap paired.

    Args:
        figures: One for each task.
        seeds: How many seeds each task has.
        draws: Resamples.
        seed: Of the generator.
    """
    if not figures:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    resampled = np.array(
        [
            [figure(rng.integers(0, count, count)) for _ in range(draws)]
            for figure, count in zip(figures, seeds, strict=True)
        ]
    )
    tasks = rng.integers(0, len(figures), (draws, len(figures)))
    drawn = np.sort(resampled[tasks, rng.integers(0, draws, tasks.shape)], axis=1)
    cut = len(figures) // 4
    low, high = np.percentile(drawn[:, cut : len(figures) - cut].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
