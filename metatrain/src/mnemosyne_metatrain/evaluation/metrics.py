"""Figures of merit from records: ratios, speed-ups, interquartile means, intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnemosyne_metatrain.evaluation.grid import segment_of

Record = dict[str, Any]
Floats = NDArray[np.float64]

_TIE_SHARE = 0.01
_CENSOR = 4.0


def interquartile_mean(values: ArrayLike) -> float:
    """The mean of the middle half."""
    ordered = np.sort(np.asarray(values, np.float64))
    cut = len(ordered) // 4
    return float(np.mean(ordered[cut : len(ordered) - cut]))


def bootstrap_interval(values: Floats, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """A 95 % interval of the interquartile mean: tasks are drawn, then a seed of each, [T, S]."""
    rng = np.random.default_rng(seed)
    values = np.asarray(values, np.float64)
    tasks = rng.integers(0, values.shape[0], (draws, values.shape[0]))
    seeds = rng.integers(0, values.shape[1], (draws, values.shape[0]))
    means = [interquartile_mean(values[t, s]) for t, s in zip(tasks, seeds, strict=True)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _at(record: Record, name: str, horizon: int) -> Floats:
    """A curve's value at a horizon for each seed, [S]."""
    return np.asarray(record[name], np.float64)[:, segment_of(horizon)]


def tuned_adam(record: Record, horizon: int, schedules: tuple[str, ...]) -> Record:
    """The best of Adam's grid at a horizon by held-out loss, over the given schedules."""
    rows = [r for r in record["adam"] if r["horizon"] == horizon and r["schedule"] in schedules]
    return min(
        rows, key=lambda r: float(np.nan_to_num(_at(r, "held_out", horizon), nan=1e9).mean())
    )


def find_learned(record: Record, name: str, told: bool, horizon: int) -> Record | None:
    """A learned optimizer's run that is as long as asked for, or longer if it is not told."""
    for row in record["learned"]:
        if row["name"] == name and row["told"] == told:
            if row["horizon"] == horizon or (not told and row["horizon"] > horizon):
                found: Record = row
                return found
    return None


def loss_ratio(
    record: Record, name: str, horizon: int, schedules: tuple[str, ...], told: bool = False
) -> dict[str, Any] | None:
    """Held-out and mean losses over the tuned Adam's, per seed; ties read as 1."""
    mine = find_learned(record, name, told, horizon)
    if mine is None:
        return None
    adam = tuned_adam(record, horizon, schedules)
    first = float(np.mean(mine["first_loss"]))
    floor = _TIE_SHARE * first
    ours, theirs = _at(mine, "held_out", horizon), _at(adam, "held_out", horizon)
    ours = np.where(np.isfinite(ours), ours, 1e3 * first)
    ratio = np.where((ours < floor) & (theirs < floor), 1.0, ours / np.maximum(theirs, 1e-9))
    mean_ratio = _at(mine, "mean_loss", horizon) / _at(adam, "mean_loss", horizon)
    return {
        "held_out": ours,
        "adam_held_out": theirs,
        "ratio": ratio,
        "mean_ratio": np.nan_to_num(mean_ratio, nan=1e3, posinf=1e3),
        "train": _at(mine, "last_loss", horizon),
        "adam_train": _at(adam, "last_loss", horizon),
        "spiked": np.asarray(mine["worst_loss"]) > 2.0 * np.asarray(mine["first_loss"]),
        "diverged": ~np.isfinite(ours) | (ours > 2.0 * first),
        "point": adam["point"],
    }


def speed_up(record: Record, name: str, horizon: int, schedules: tuple[str, ...]) -> float | None:
    """The horizon at which a re-tuned Adam reaches our held-out loss, over ours.

    Between horizons the logarithm of the horizon is interpolated in the loss. Below the first the
    first is returned, beyond the last the last, or 4 if that is less.
    """
    mine = find_learned(record, name, False, horizon)
    if mine is None:
        return None
    goal = float(np.mean(_at(mine, "held_out", horizon)))
    horizons = sorted({int(r["horizon"]) for r in record["adam"]})
    losses = [
        float(np.mean(_at(tuned_adam(record, h, schedules), "held_out", h))) for h in horizons
    ]
    losses = list(np.minimum.accumulate(losses))
    if not np.isfinite(goal) or goal >= losses[0]:
        return horizons[0] / horizon
    for left, right, a, b in zip(horizons, horizons[1:], losses, losses[1:], strict=False):
        if goal >= b:
            share = (a - goal) / max(a - b, 1e-12)
            return float(np.exp(np.log(left) + share * np.log(right / left)) / horizon)
    return min(horizons[-1] / horizon, _CENSOR)
