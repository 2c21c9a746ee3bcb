"""Counts divergences of the same weights with the guard on and off, over many seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np

from mnemosyne_metatrain.evaluation.devices import Lowered, run_on_devices
from mnemosyne_metatrain.evaluation.judge import Clock
from mnemosyne_metatrain.evaluation.metrics import diverged, spiked
from mnemosyne_metatrain.evaluation.programs import Programs, lower_programs
from mnemosyne_metatrain.evaluation.records import Journal, Row, curve_fields
from mnemosyne_metatrain.evaluation.runs import curves_of
from mnemosyne_metatrain.evaluation.weights import Candidate, Source
from mnemosyne_metatrain.suite import every_task

GUARD = "gate_guard"


def guarded(source: Source) -> Candidate:
    """The weights twice, with the guard on and off.

    Raises:
        ValueError: If there is not one member, or it has no guard.
    """
    plain = source.candidate()
    if len(plain.names) != 1:
        raise ValueError("count divergences of one member at a time")
    if GUARD not in plain.thetas.fixed.get("knobs", {}):
        raise ValueError(f"these weights have no knob {GUARD}")
    pair = [
        dataclasses.replace(source, knobs=(*source.knobs, (GUARD, value))).candidate()
        for value in (1.0, 0.0)
    ]
    thetas = jax.tree.map(lambda *x: np.concatenate(x), *(c.thetas for c in pair))
    return Candidate(plain.optimizer, ("on", "off"), thetas)


def count_divergences(
    source: Source,
    tasks: Sequence[str],
    runs: int,
    horizon: int,
    journal: Journal,
    clock: Clock,
) -> None:
    """Runs the weights with and without their guard and records a row a task and guard.

    Args:
        source: One member.
        tasks: Names of tasks.
        runs: At least so many runs over all tasks; each task has the same number of seeds.
        horizon: Steps.
        journal: Where to; tasks that are recorded there with these weights are not run again.
        clock: When to stop.
    """
    candidate = guarded(source)
    name = source.name or candidate.optimizer.name
    seeds = math.ceil(runs / len(tasks))
    makers = every_task()

    def lower(task: str, device: jax.Device) -> Lowered | None:
        found = journal.book.select("count", task=task, name=name, horizon=horizon, runs=seeds)
        known = {row["weights"] for row in found}
        if clock.is_over or {candidate.digest(0), candidate.digest(1)} <= known:
            return None
        return lower_programs(makers[task](), [candidate], seeds, None, device, clock.check)

    def work(task: str, programs: Programs) -> None:
        curves = programs.run_learned(0, candidate.thetas, horizon, seeds, False)
        for index, guard in enumerate(candidate.names):
            mine = curve_fields(curves_of(v[index] for v in curves), horizon)
            row: Row = {
                "kind": "count",
                "task": task,
                "name": name,
                "guard": guard == "on",
                "horizon": horizon,
                "weights": candidate.digest(index),
                "runs": seeds,
                "diverged": int(diverged(mine, horizon).sum()),
                "spiked": int(spiked(mine).sum()),
            }
            journal.append(row)
            print(f"{task}: guard {guard}, {row['diverged']} of {seeds} diverged", flush=True)

    run_on_devices(tasks, lower, work)
