"""The program `evaluate`: runs what is not recorded yet, on all devices, until its time is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from mnemosyne_metatrain.evaluation.devices import Lowered, run_on_devices
from mnemosyne_metatrain.evaluation.fingerprint import task_fingerprint
from mnemosyne_metatrain.evaluation.judge import (
    Clock,
    Plan,
    learned_is_done,
    needed_horizon,
    run_checks,
    run_learned,
    run_searches,
    run_speedups,
    search_is_done,
)
from mnemosyne_metatrain.evaluation.programs import Programs, lower_programs
from mnemosyne_metatrain.evaluation.records import Journal, Row
from mnemosyne_metatrain.evaluation.weights import Candidate, Source, load_candidates
from mnemosyne_metatrain.suite import every_task


@dataclass(frozen=True)
class Leg:
    """One leg of an evaluation.

    Attributes:
        plan: What is measured.
        tasks: Names of tasks.
        out: File of learned runs.
        baselines: File of baselines.
        minutes: After which nothing new is started.
        check: Share of recorded baselines that is run again instead.
        wait: Whether to compile first and then wait until every source is there.
    """

    plan: Plan
    tasks: tuple[str, ...]
    out: Path
    baselines: Path
    minutes: float = 1e9
    check: float = 0.0
    wait: bool = False


class _Weights:
    """Weights that may still be in training while programs are compiled."""

    def __init__(self, sources: Sequence[Source], wait: bool) -> None:
        self._sources = sources
        self._lock = threading.Lock()
        self._trained: list[Candidate] | None = None
        self._waits = wait
        self.shapes = load_candidates(sources, trained=False) if wait else self.trained()

    def trained(self) -> list[Candidate]:
        """The weights; waits until they are there."""
        with self._lock:
            while self._waits and not all(source.is_ready for source in self._sources):
                time.sleep(0.5)
            if self._trained is None:
                self._trained = load_candidates(self._sources)
            return self._trained


class Evaluation:
    """Compiles on all cores; each device has a thread that takes its tasks in turn."""

    def __init__(self, leg: Leg, sources: Sequence[Source]) -> None:
        """Opens the records.

        Args:
            leg: What to do.
            sources: Weights.
        """
        self._leg = leg
        self._clock = Clock(time.time() + 60.0 * leg.minutes)
        self._weights = _Weights(sources, leg.wait)
        makers = every_task()
        self._tasks = leg.tasks
        self._made = {name: makers[name]() for name in leg.tasks}
        self._prints = {
            name: task_fingerprint(
                task, leg.plan.grid_of(name) or leg.plan.grid, leg.plan.seeds_of(name)
            )
            for name, task in self._made.items()
        }
        self._out = Journal(leg.out)
        self._baselines = Journal(leg.baselines, self._counts)

    def _counts(self, row: Row) -> bool:
        """Whether a recorded baseline is still that of the task as it is now."""
        known = self._prints.get(row["task"])
        return known is None or row.get("fingerprint", known) == known

    def _learned_left(self, task: str) -> bool:
        if self._leg.wait:
            return True
        seeds = self._leg.plan.seeds_of(task)
        return not all(
            learned_is_done(self._out.book, task, candidate, i, run, seeds)
            for candidate in self._weights.trained()
            for i in range(len(candidate.names))
            for run in self._leg.plan.learned_runs(task)
        )

    def _baselines_left(self, name: str, learned_left: bool) -> bool:
        plan = self._leg.plan
        if self._leg.check > 0.0:
            return True
        if plan.grid_of(name) is None:
            return False
        if not all(search_is_done(self._baselines.book, name, h) for h in plan.horizons_of(name)):
            return True
        if plan.speedup and learned_left:
            return True
        return needed_horizon(plan, name, self._out.book, self._baselines.book) is not None

    def run(self) -> bool:
        """Runs the leg; returns whether all is recorded."""
        run_on_devices(self._tasks, self._lower, self._judge)
        return self._is_done()

    def _is_done(self) -> bool:
        left = [
            task
            for task in self._tasks
            if self._learned_left(task)
            or (not self._leg.check and self._baselines_left(task, False))
        ]
        done = not left or self._leg.wait
        print("all is recorded" if done else f"left for another leg: {', '.join(left)}")
        return done

    def _lower(self, name: str, device: jax.Device) -> Lowered | None:
        task = self._made[name]
        with_learned = self._learned_left(name)
        with_baselines = self._baselines_left(name, with_learned)
        if not (with_learned or with_baselines) or self._clock.is_over:
            return None
        seeds = self._leg.plan.seeds_of(name)
        grid = self._leg.plan.grid_of(name) if with_baselines else None
        return lower_programs(
            task,
            self._weights.shapes if with_learned else [],
            seeds,
            0 if grid is None else grid.width(seeds),
            device,
            self._clock.check,
        )

    def _judge(self, name: str, programs: Programs) -> None:
        plan = self._leg.plan
        self._clock.check()
        if programs.learned:
            run_learned(programs, self._weights.trained(), plan, self._out)
        if programs.baseline is None:
            return
        if self._leg.check > 0.0:
            run_checks(programs, plan, self._baselines, self._leg.check)
            return
        run_searches(programs, plan, self._baselines, self._prints[name])
        run_speedups(programs, plan, self._out.book, self._baselines, self._prints[name])
