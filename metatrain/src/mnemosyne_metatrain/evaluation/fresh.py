"""Runs weights and the tuned Adam on seeds that nothing was chosen on.

The best point of a grid is chosen on the seeds that it is judged on, which favours it. Fresh seeds
of the same points say by how much.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import jax
import numpy as np

from mnemosyne_metatrain.evaluation.devices import Lowered, run_on_devices
from mnemosyne_metatrain.evaluation.judge import AGAINST, Clock
from mnemosyne_metatrain.evaluation.metrics import ratio_figure
from mnemosyne_metatrain.evaluation.programs import Programs, lower_programs
from mnemosyne_metatrain.evaluation.records import Book, Journal, Row, at, curve_fields, values
from mnemosyne_metatrain.evaluation.rules import SCHEDULES, Point
from mnemosyne_metatrain.evaluation.runs import Curves, curves_of
from mnemosyne_metatrain.evaluation.statistics import (
    OfSeeds,
    bootstrap_interval,
    interquartile_mean,
)
from mnemosyne_metatrain.evaluation.weights import Candidate
from mnemosyne_metatrain.suite import every_task


def run_fresh(
    candidates: Sequence[Candidate],
    tasks: Sequence[str],
    horizons: Sequence[int],
    seeds: int,
    baselines: Book,
    journal: Journal,
    clock: Clock,
) -> None:
    """Runs weights and the tuned Adam of each schedule; a row a member and horizon.

    Args:
        candidates: The weights; the horizon is not told.
        tasks: Names of tasks.
        horizons: Steps; one run of the weights is read at all of them.
        seeds: How many; they come after those that the recorded baselines have.
        baselines: Where the tuned points are from.
        journal: Where to; a task that is recorded with these weights is not run again.
        clock: When to stop.

    Raises:
        ValueError: If Adam is not tuned on a task at a horizon.
    """
    makers = every_task()
    longest = max(horizons)
    for task in tasks:
        for horizon in horizons:
            if baselines.tuned(task, horizon) is None:
                raise ValueError(
                    f"no tuned Adam of {task} at {horizon} steps: `evaluate` without --fresh-seeds "
                    "records it in --baselines"
                )

    def used(task: str) -> int:
        rows = baselines.select("baseline", task=task, rule="adam")
        return max((row["seeds"] for row in rows), default=0)

    def lower(task: str, device: jax.Device) -> Lowered | None:
        found = journal.book.select("fresh", task=task, seeds=seeds)
        known = {(row["weights"], row["horizon"]) for row in found}
        digests = [c.digest(i) for c in candidates for i in range(len(c.names))]
        if clock.is_over or {(d, h) for d in digests for h in horizons} <= known:
            return None
        width = len(SCHEDULES) * seeds
        return lower_programs(makers[task](), candidates, seeds, width, device, clock.check)

    def work(task: str, programs: Programs) -> None:
        begin = time.time()
        programs = programs.after(used(task))
        runs = [
            programs.run_learned(which, candidate.thetas, longest, seeds, False)
            for which, candidate in enumerate(candidates)
        ]
        for horizon in horizons:
            tuned = [baselines.tuned(task, horizon, "adam", (s,)) for s in SCHEDULES]
            points = [Point(**row["point"]) for row in tuned if row is not None]
            theirs = programs.run_points(points, horizon, seeds, False)
            adam = {
                point.schedule: _ends(curves_of(v[i] for v in theirs), horizon)
                for i, point in enumerate(points)
            }
            facts = {
                "task": task,
                "horizon": horizon,
                "first_seed": used(task),
                "seeds": seeds,
                "device": programs.device.device_kind,
                "jax": jax.__version__,
                "adam": adam,
            }
            for candidate, curves in zip(candidates, runs, strict=True):
                for index, name in enumerate(candidate.names):
                    mine = curves_of(v[index] for v in curves)
                    journal.append(
                        {
                            "kind": "fresh",
                            "name": name,
                            "weights": candidate.digest(index),
                            **facts,
                            "first_loss": curve_fields(mine, horizon)["first_loss"],
                            "held_out": _ends(mine, horizon),
                        }
                    )
        print(f"{task}: {seeds} fresh seeds, {time.time() - begin:.1f} s", flush=True)

    run_on_devices(tasks, lower, work)


def _ends(curves: Curves, horizon: int) -> list[float | None]:
    """Held-out losses of all seeds at a horizon; None where a run broke."""
    ends = at(curve_fields(curves, horizon), "held_out", horizon)
    return [float(value) if np.isfinite(value) else None for value in ends]


def fresh_summary(
    book: Book, tasks: Sequence[str], name: str, horizon: int, against: str, draws: int = 1000
) -> Row | None:
    """Held-out loss over the tuned Adam's on fresh seeds, by task, with its interquartile mean.

    Which schedule is the best one is what the recorded baselines say, not these seeds.
    """
    figures: list[OfSeeds] = []
    counts: list[int] = []
    ratios: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    for task in tasks:
        rows = book.select("fresh", task=task, name=name, horizon=horizon)
        tuned = book.tuned(task, horizon, "adam", AGAINST[against])
        if not rows or tuned is None or tuned["schedule"] not in rows[0]["adam"]:
            continue
        row = rows[0]
        first = float(values(row, "first_loss").mean())
        ours, theirs = (
            np.nan_to_num(np.asarray(v, np.float64), nan=1e3 * first)
            for v in (row["held_out"], row["adam"][tuned["schedule"]])
        )

        figure = ratio_figure(ours, theirs, first)
        figures.append(figure)
        counts.append(len(ours))
        ratios[task] = figure(np.arange(len(ours)))
        losses[task] = [float(x) for x in (ours.mean(), ours.std(), theirs.mean(), theirs.std())]
    if not ratios:
        return None
    return {
        "name": name,
        "horizon": horizon,
        "against": against,
        "seeds": min(counts),
        "losses": losses,
        "ratios": ratios,
        "val_loss_ratio_iqm": interquartile_mean(list(ratios.values())),
        "val_loss_ratio_ci95": bootstrap_interval(figures, counts, draws),
    }
