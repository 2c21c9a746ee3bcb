"""Figures of a learned optimizer over tasks: what tables, plots and the headline show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mnemosyne_metatrain.evaluation.judge import AGAINST
from mnemosyne_metatrain.evaluation.metrics import TARGETS, Comparison, compare, ratio_figure
from mnemosyne_metatrain.evaluation.records import Book, Row, at
from mnemosyne_metatrain.evaluation.statistics import (
    OfSeeds,
    bootstrap_interval,
    interquartile_mean,
)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """One optimizer at one horizon, over the tasks where it and a tuned Adam were run.

    Attributes:
        name: The optimizer.
        horizon: Steps.
        against: Which Adam: "constant", "cosine" or "best".
        told: Whether the horizon was told.
        tasks: The tasks.
        ratios: Held-out loss over Adam's, by task.
        speedups: Speed-up by task; empty if Adam was not tuned at other horizons.
        val_loss_ratio_iqm: Interquartile mean of the ratios.
        val_loss_ratio_ci95: Its interval.
        mean_loss_ratio_iqm: Of the mean training loss over the run, over Adam's.
        speedup_iqm: Interquartile mean of the speed-ups.
        speedup_ci95: Its interval.
        time_ratios_iqm: Our steps to each target over Adam's.
        diverged: Runs that diverged.
        spiked: Runs with a spike.
        runs: Runs.
    """

    name: str
    horizon: int
    against: str
    told: bool
    tasks: list[str]
    ratios: dict[str, float]
    speedups: dict[str, float]
    val_loss_ratio_iqm: float
    val_loss_ratio_ci95: Interval
    mean_loss_ratio_iqm: float
    speedup_iqm: float
    speedup_ci95: Interval
    time_ratios_iqm: dict[str, float]
    diverged: int
    spiked: int
    runs: int

    def row(self) -> Row:
        """As plain values."""
        return asdict(self)


def comparisons(
    book: Book, tasks: Sequence[str], name: str, horizon: int, against: str, told: bool = False
) -> list[Comparison]:
    """Comparisons on all tasks where there is something to compare."""
    found = (compare(book, task, name, horizon, AGAINST[against], told) for task in tasks)
    return [comparison for comparison in found if comparison is not None]


def summarize(
    book: Book,
    tasks: Sequence[str],
    name: str,
    horizon: int,
    against: str = "best",
    told: bool = False,
    draws: int = 1000,
) -> Summary | None:
    """Sums up an optimizer; None if there is no task to compare it on."""
    found = comparisons(book, tasks, name, horizon, against, told)
    if not found:
        return None
    fast = [c for c in found if len(c.adam) > 1]
    if not any({horizon // 2, 2 * horizon} & set(c.adam) for c in fast):
        fast = []  # Adam was tuned for other horizons, but not for speed-ups at this one.
    ratios = {c.task: c.ratio() for c in found}
    speedups = {c.task: c.speed_up() for c in fast}
    return Summary(
        name,
        horizon,
        against,
        told,
        [c.task for c in found],
        ratios,
        speedups,
        interquartile_mean(list(ratios.values())),
        bootstrap_interval([c.ratio for c in found], [c.seeds for c in found], draws),
        interquartile_mean([c.mean_ratio() for c in found]),
        interquartile_mean(list(speedups.values())),
        bootstrap_interval([c.speed_up for c in fast], [c.seeds for c in fast], draws),
        {
            f"{share:g}": interquartile_mean([c.times[i] for c in found])
            for i, share in enumerate(TARGETS)
        },
        int(sum(c.diverged.sum() for c in found)),
        int(sum(c.spiked.sum() for c in found)),
        sum(c.seeds for c in found),
    )


def against_other(
    book: Book, tasks: Sequence[str], name: str, other: str, horizon: int, draws: int = 1000
) -> Row | None:
    """Held-out losses of one learned optimizer over another's: by task, and the middle."""
    figures: list[OfSeeds] = []
    counts: list[int] = []
    ratios: dict[str, float] = {}
    for task in tasks:
        mine, theirs = (book.learned(task, n, horizon) for n in (name, other))
        if mine is None or theirs is None:
            continue
        first = float(np.mean(mine["first_loss"]))
        a, b = (
            np.nan_to_num(at(row, "held_out", horizon), nan=1e3 * first) for row in (mine, theirs)
        )
        count = min(len(a), len(b))

        figure = ratio_figure(a[:count], b[:count], first)
        figures.append(figure)
        counts.append(count)
        ratios[task] = figure(np.arange(count))
    if not ratios:
        return None
    return {
        "name": name,
        "other": other,
        "horizon": horizon,
        "ratios": ratios,
        "val_loss_ratio_iqm": interquartile_mean(list(ratios.values())),
        "val_loss_ratio_ci95": bootstrap_interval(figures, counts, draws),
    }


def print_summary(summary: Summary) -> None:
    """Prints a summary as two lines."""
    low, high = summary.val_loss_ratio_ci95
    ratios = " ".join(f"{task}={value:.3f}" for task, value in summary.ratios.items())
    print(
        f"{summary.name:>14} T={summary.horizon:<5} vs {summary.against:<8} "
        f"{'told ' if summary.told else ''}val {summary.val_loss_ratio_iqm:.3f} "
        f"({low:.3f} to {high:.3f}) mean {summary.mean_loss_ratio_iqm:.3f} "
        f"speed {summary.speedup_iqm:.2f} div {summary.diverged} spikes {summary.spiked} "
        f"of {summary.runs}\n{'':>14} {ratios}",
        flush=True,
    )
