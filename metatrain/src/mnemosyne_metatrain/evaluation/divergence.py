"""Counts divergences of the same weights with the guard on and off, over many seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax

from mnemosyne_metatrain.evaluation.devices import Lowered, run_on_devices
from mnemosyne_metatrain.evaluation.judge import Clock
from mnemosyne_metatrain.evaluation.metrics import diverged, spiked
from mnemosyne_metatrain.evaluation.programs import Programs, lower_programs
from mnemosyne_metatrain.evaluation.records import GUARD_EVENTS, Journal, Row, curve_fields
from mnemosyne_metatrain.evaluation.runs import curves_of
from mnemosyne_metatrain.evaluation.weights import Candidate, Source, load_candidates
from mnemosyne_metatrain.suite import every_task

GUARD = "gate_guard"


def guarded(sources: Sequence[Source]) -> Candidate:
    """The same weights with the guard "on" and "off".

    Args:
        sources: One member with the knob, or two that are called "on" and "off" already.

    Raises:
        ValueError: If they are neither.
    """
    if len(sources) == 1:
        plain = sources[0].candidate()
        if len(plain.names) != 1 or GUARD not in plain.thetas.fixed.get("knobs", {}):
            raise ValueError(f"count divergences of one member that has a knob {GUARD}")
        sources = [
            dataclasses.replace(sources[0], name=name, knobs=(*sources[0].knobs, (GUARD, value)))
            for name, value in (("on", 1.0), ("off", 0.0))
        ]
    found = load_candidates(sources)
    if len(found) != 1 or sorted(found[0].names) != ["off", "on"]:
        raise ValueError("count divergences of on=... and off=... of the same architecture")
    return found[0]


def count_divergences(
    sources: Sequence[Source],
    tasks: Sequence[str],
    runs: int,
    horizon: int,
    journal: Journal,
    clock: Clock,
) -> None:
    """Runs the weights with and without their guard and records a row a task and guard.

    Args:
        sources: What `guarded` takes.
        tasks: Names of tasks.
        runs: At least so many runs over all tasks; each task has the same number of seeds.
        horizon: Steps.
        journal: Where to; tasks that are recorded there with these weights are not run again.
        clock: When to stop.
    """
    candidate = guarded(sources)
    name = candidate.optimizer.name
    seeds = math.ceil(runs / len(tasks))
    makers = every_task()

    def lower(task: str, device: jax.Device) -> Lowered | None:
        found = journal.book.select("count", task=task, name=name, horizon=horizon, runs=seeds)
        known = {row["weights"] for row in found}
        if clock.is_over or {candidate.digest(0), candidate.digest(1)} <= known:
            return None
        return lower_programs(makers[task](), [candidate], seeds, 0, device, clock.check)

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
                "start_loss": mine["start_loss"],
                "diverged": int(diverged(mine, horizon).sum()),
                "spiked": int(spiked(mine).sum()),
                **{event: mine[event] for event in GUARD_EVENTS if event in mine},
            }
            journal.append(row)
            print(f"{task}: guard {guard}, {row['diverged']} of {seeds} diverged", flush=True)

    run_on_devices(tasks, lower, work)
