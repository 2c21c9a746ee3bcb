"""Judges weights on tasks: compiles side by side, runs in turn, and returns plain records."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnemosyne_metatrain.evaluation.grid import Grid, best_point, describe, segment_of
from mnemosyne_metatrain.evaluation.runs import (
    SEGMENT,
    AdamPoint,
    Curves,
    adam_run,
    learned_run,
)
from mnemosyne_metatrain.layout import Layout
from mnemosyne_metatrain.optimizers.base import Optimizer, Theta
from mnemosyne_metatrain.suite.task import SuiteTask

Record = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """Weights to be judged.

    Attributes:
        optimizer: What they are the weights of.
        names: Names of the members of a population.
        thetas: Their weights, stacked, [P, ...].
    """

    optimizer: Optimizer
    names: tuple[str, ...]
    thetas: Theta


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        horizons: Horizons at which runs are read; the largest is the length of runs.
        seeds: Seeds of parameters and batches.
        grid: Adam's grid; None leaves Adam out.
        told: Horizons of further runs that are told their horizon.
    """

    horizons: tuple[int, ...] = (125, 250, 500, 1000, 2000)
    seeds: int = 3
    grid: Grid | None = field(default_factory=Grid)
    told: tuple[int, ...] = (500, 2000)

    @property
    def max_segments(self) -> int:
        """Segments of the longest run."""
        return max(self.horizons) // SEGMENT

    @property
    def keys(self) -> jax.Array:
        """Keys of the seeds."""
        return jax.vmap(jax.random.key)(jnp.arange(self.seeds) + 7)


@dataclass(frozen=True)
class Program:
    """Compiled runs of one task."""

    task: SuiteTask
    adam: Callable[..., Curves] | None
    learned: tuple[Callable[..., Curves], ...]
    arguments: tuple[Any, ...]


def _lower(task: SuiteTask, candidates: Sequence[Candidate], plan: Plan) -> Any:
    """Traces all runs of a task."""
    data = jax.tree.map(jnp.asarray, task.data())
    held_out = jax.jit(task.held_out)(data)
    arguments = (data, held_out, plan.keys, jnp.asarray(plan.max_segments))
    adam = None
    if plan.grid is not None:
        run = partial(adam_run, task, plan.max_segments)
        over_seeds = jax.vmap(run, in_axes=(None, None, 0, None, None))
        over_grid = jax.vmap(over_seeds, in_axes=(None, None, None, None, 0))
        points = plan.grid.points(False, max(plan.horizons))
        adam = jax.jit(over_grid).lower(*arguments, points)
    learned = []
    for candidate in candidates:
        layout = Layout(task.specs)
        run_learned = partial(learned_run, candidate.optimizer, layout, task, plan.max_segments)
        by_seed = jax.vmap(run_learned, in_axes=(None, None, 0, None, None, None))
        by_theta = jax.vmap(by_seed, in_axes=(None, None, None, None, 0, None))
        learned.append(jax.jit(by_theta).lower(*arguments, candidate.thetas, jnp.zeros(())))
    return task, adam, learned, arguments


def _compile(lowered: Any) -> Program:
    task, adam, learned, arguments = lowered
    return Program(
        task,
        None if adam is None else adam.compile(),
        tuple(run.compile() for run in learned),
        arguments,
    )


class Judge:
    """Compiles the runs of all tasks side by side, then judges whatever weights it is given."""

    def __init__(
        self,
        tasks: Sequence[Callable[[], SuiteTask]],
        candidates: Sequence[Candidate],
        plan: Plan,
    ) -> None:
        """Traces, and starts to compile.

        Args:
            tasks: Makers of tasks.
            candidates: Weights of the shapes that will be judged.
            plan: What is measured.
        """
        self._plan = plan
        self._pool = ThreadPoolExecutor()
        start = time.time()
        self._compiling = [
            self._pool.submit(_compile, _lower(make(), candidates, plan)) for make in tasks
        ]
        print(f"traced {len(tasks)} tasks in {time.time() - start:.1f} s", flush=True)

    def run(self, candidates: Sequence[Candidate], out: Path | None = None) -> list[Record]:
        """Runs everything; one record a task, written to `out` as they come."""
        records = []
        for future in self._compiling:
            program = future.result()
            begin = time.time()
            record = _judge_task(program, candidates, self._plan)
            record["seconds"] = time.time() - begin
            records.append(record)
            if out is not None:
                out.write_text(json.dumps(records))
            print(f"{program.task.name}: {record['seconds']:.1f} s", flush=True)
        return records


def _judge_task(program: Program, candidates: Sequence[Candidate], plan: Plan) -> Record:
    record: Record = {
        "task": program.task.name,
        "parameters": sum(spec.size for spec in program.task.specs),
        "adam": _adam_records(program, plan) if plan.grid is not None else [],
        "learned": [],
    }
    data, held_out, keys, _ = program.arguments
    for candidate, run in zip(candidates, program.learned, strict=True):
        for horizon, told in ((max(plan.horizons), 0.0), *((h, 1.0) for h in plan.told)):
            segments = jnp.asarray(horizon // SEGMENT)
            curves = run(data, held_out, keys, segments, candidate.thetas, jnp.asarray(told))
            for index, name in enumerate(candidate.names):
                record["learned"].append(
                    {
                        "name": name,
                        "told": bool(told),
                        "horizon": horizon,
                        **_numbers(jax.tree.map(lambda x, i=index: np.asarray(x)[i], curves)),
                    }
                )
    return record


def _adam_records(program: Program, plan: Plan) -> list[Record]:
    """The tuned Adam of each schedule and horizon."""
    assert plan.grid is not None and program.adam is not None
    data, held_out, keys, _ = program.arguments
    adam = program.adam
    records = []

    def run(points: AdamPoint, horizon: int) -> Curves:
        segments = jnp.asarray(horizon // SEGMENT)
        curves: Curves = jax.tree.map(np.asarray, adam(data, held_out, keys, segments, points))
        return curves

    longest = max(plan.horizons)
    constant = plan.grid.points(False, longest)
    constant_curves = run(constant, longest)
    for horizon in plan.horizons:
        cosine = plan.grid.points(True, horizon)
        for schedule, points, curves in (
            ("constant", constant, constant_curves),
            ("cosine", cosine, run(cosine, horizon)),
        ):
            end = segment_of(horizon)
            best = best_point(np.asarray(curves.held_out, np.float64)[:, :, end])
            chosen = jax.tree.map(lambda x, i=best: x[i], curves)
            records.append(
                {
                    "schedule": schedule,
                    "horizon": horizon,
                    "point": describe(points, best),
                    **_numbers(chosen),
                }
            )
    return records


def _numbers(curves: Curves) -> Record:
    """Curves [S, ...] as nested lists."""
    return {
        name: np.round(np.asarray(value, np.float64), 6).tolist()
        for name, value in zip(curves._fields, curves, strict=True)
    }
