"""Judges weights on one task: what is recorded already is not run again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import jax
import numpy as np

from mnemosyne_metatrain.evaluation.devices import OutOfTime
from mnemosyne_metatrain.evaluation.grid import FULL, SMALL, Grid
from mnemosyne_metatrain.evaluation.metrics import is_tie
from mnemosyne_metatrain.evaluation.programs import Programs
from mnemosyne_metatrain.evaluation.records import Book, Journal, Row, at, curve_fields, values
from mnemosyne_metatrain.evaluation.rules import Point
from mnemosyne_metatrain.evaluation.runs import Curves, curves_of
from mnemosyne_metatrain.evaluation.search import missing_horizon, retune, search
from mnemosyne_metatrain.evaluation.weights import Candidate
from mnemosyne_metatrain.suite import BIG, CHEAP, CHECK

_LONG = 10_000
# How the tuned Adam is chosen: over one schedule, or over both.
AGAINST = {"constant": ("constant",), "cosine": ("cosine",), "best": ("constant", "cosine")}


@dataclass(frozen=True)
class Clock:
    """When a leg has to stop; nothing new is started after that."""

    deadline: float

    @property
    def is_over(self) -> bool:
        """Whether the deadline is past."""
        return time.time() > self.deadline

    def check(self) -> None:
        """Raises `OutOfTime` after the deadline."""
        if self.is_over:
            raise OutOfTime


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        horizons: Horizons at which runs are judged; 10,000 for the cheap tasks alone.
        told: Horizons of further runs that are told theirs.
        seeds: Seeds of parameters and batches.
        baselines: Whether the classic rules are tuned.
        speedup: Whether Adam is tuned again at other horizons, as far as speed-ups need it.
        grid: What is tried; that of the big net is always the small one.
    """

    horizons: tuple[int, ...] = (500, 2000)
    told: tuple[int, ...] = ()
    seeds: int = 5
    baselines: bool = True
    speedup: bool = True
    grid: Grid = FULL

    def horizons_of(self, task: str) -> tuple[int, ...]:
        """Horizons of a task, in order; 10,000 if it is cheap, the longest if the net is big."""
        found = tuple(h for h in sorted(self.horizons) if h < _LONG or task in CHEAP)
        return found[-1:] if task in BIG else found

    def seeds_of(self, task: str) -> int:
        """Seeds of a task; the big net has one."""
        return 1 if task in BIG else self.seeds

    def grid_of(self, task: str) -> Grid | None:
        """What is tried on a task; None for those that are compared with themselves."""
        if task in CHECK or not self.baselines:
            return None
        return SMALL if task in BIG else self.grid

    def learned_runs(self, task: str) -> list[tuple[int, bool]]:
        """Horizons of learned runs, and whether they are told."""
        horizons = self.horizons_of(task)
        if not horizons:
            return []
        return [(horizons[-1], False), *((h, True) for h in self.told if h in horizons)]


def learned_is_done(
    book: Book, task: str, candidate: Candidate, index: int, run: tuple[int, bool], seeds: int
) -> bool:
    """Whether a member's run on a task is recorded, with these weights and seeds."""
    horizon, told = run
    row = book.learned(task, candidate.names[index], horizon, told)
    if row is None:
        return False
    return bool(row["seeds"] >= seeds and row["weights"] == candidate.digest(index))


def run_learned(
    programs: Programs, candidates: Sequence[Candidate], plan: Plan, journal: Journal
) -> None:
    """Runs all weights that are not recorded, and records them."""
    task = programs.task.name
    seeds = plan.seeds_of(task)
    for which, candidate in enumerate(candidates):
        for run in plan.learned_runs(task):
            missing = [
                i
                for i in range(len(candidate.names))
                if not learned_is_done(journal.book, task, candidate, i, run, seeds)
            ]
            if not missing:
                continue
            horizon, told = run
            begin = time.time()
            curves = programs.run_learned(which, candidate.thetas, horizon, seeds, told)
            seconds = time.time() - begin
            for i in missing:
                mine = curves_of(np.asarray(value)[i] for value in curves)
                journal.append(
                    {
                        "kind": "learned",
                        "name": candidate.names[i],
                        "told": told,
                        "weights": candidate.digest(i),
                        **_facts(programs, seeds),
                        "horizon": horizon,
                        **curve_fields(mine, horizon),
                    }
                )
            _say(task, f"learned T={horizon}{' told' if told else ''}", seconds)


def _facts(programs: Programs, seeds: int) -> Row:
    return {
        "task": programs.task.name,
        "seeds": seeds,
        "parameters": sum(spec.size for spec in programs.task.specs),
        "device": programs.device.device_kind,
        "jax": jax.__version__,
    }


def search_is_done(book: Book, task: str, horizon: int) -> bool:
    """Whether the rules are tuned at a horizon."""
    return bool(book.select("searched", task=task, horizon=horizon))


def run_searches(programs: Programs, plan: Plan, journal: Journal, fingerprint: str) -> None:
    """Tunes the rules at every horizon where that is not recorded."""
    task = programs.task.name
    grid, seeds = plan.grid_of(task), plan.seeds_of(task)
    if grid is None:
        return
    facts = {**_facts(programs, seeds), "fingerprint": fingerprint}
    for horizon in plan.horizons_of(task):
        if search_is_done(journal.book, task, horizon):
            continue
        begin = time.time()
        for row in search(grid, horizon, seeds, programs.run_points):
            journal.append({**row, **facts})
        journal.append({"kind": "searched", "horizon": horizon, **facts})
        _say(task, f"search T={horizon}", time.time() - begin)


def needed_horizon(plan: Plan, task: str, learned: Book, baselines: Book) -> int | None:
    """The next horizon at which Adam has to be tuned again for some speed-up, if any."""
    if not plan.speedup or plan.grid_of(task) is None or task in BIG:
        return None
    for horizon in plan.horizons_of(task):
        for name in learned.names():
            row = learned.learned(task, name, horizon)
            if row is None:
                continue
            goal = float(np.nan_to_num(at(row, "held_out", horizon), nan=np.inf).mean())
            for schedules in AGAINST.values():
                known = adam_losses(baselines, task, schedules)
                first = float(values(row, "first_loss").mean())
                if horizon not in known or is_tie(goal, known[horizon], first):
                    continue
                missing = missing_horizon(goal, horizon, known)
                if missing is not None and missing % 125 == 0:
                    return missing
    return None


def adam_losses(book: Book, task: str, schedules: Sequence[str]) -> dict[int, float]:
    """Held-out losses of the tuned Adam by horizon."""
    rows = book.select("baseline", task=task, rule="adam")
    tuned = {h: book.tuned(task, h, "adam", schedules) for h in {r["horizon"] for r in rows}}
    return {h: float(at(r, "held_out", h).mean()) for h, r in tuned.items() if r is not None}


def run_speedups(
    programs: Programs, plan: Plan, learned: Book, journal: Journal, fingerprint: str
) -> None:
    """Tunes Adam at other horizons for as long as a speed-up needs it."""
    task = programs.task.name
    grid = plan.grid_of(task)
    if grid is None:
        return
    facts = {**_facts(programs, plan.seeds_of(task)), "fingerprint": fingerprint}
    while True:
        horizon = needed_horizon(plan, task, learned, journal.book)
        if horizon is None:
            return
        tuned = [
            Point(**row["point"])
            for row in journal.book.select("baseline", task=task, rule="adam", stage=2)
            if row["horizon"] in plan.horizons_of(task) and _is_near(row["horizon"], horizon)
        ]
        begin = time.time()
        for row in retune(grid, tuned, horizon, plan.seeds_of(task), programs.run_points):
            journal.append({**row, **facts})
        _say(task, f"Adam again T={horizon}", time.time() - begin)


def _is_near(horizon: int, other: int) -> bool:
    return 0.25 <= other / horizon <= 4.0


def run_checks(programs: Programs, plan: Plan, journal: Journal, share: float) -> None:
    """Runs a share of the recorded baselines again and records how far they are off."""
    task = programs.task.name
    for row in journal.book.select("baseline", task=task, seeds=plan.seeds_of(task)):
        horizon, point = row["horizon"], Point(**row["point"])
        chance = int(sha256(f"{task} {horizon} {point}".encode()).hexdigest()[:8], 16) / 2**32
        if chance >= share:
            continue
        curves: Curves = programs.run_points([point], horizon, plan.seeds_of(task), False)
        again = at(curve_fields(curves_of(v[0] for v in curves), horizon), "held_out", horizon)
        before = at(row, "held_out", horizon)
        journal.append(
            {
                "kind": "check",
                **_facts(programs, plan.seeds_of(task)),
                "rule": point.rule,
                "schedule": point.schedule,
                "horizon": horizon,
                "recorded": before.tolist(),
                "again": again.tolist(),
                "fingerprint": row["fingerprint"],
            }
        )
        off = float(np.max(np.abs(again / before - 1.0)))
        print(f"{task}: {point.rule} {point.schedule} T={horizon} again: off by {off:.2e}")


def _say(task: str, what: str, seconds: float) -> None:
    print(f"{time.strftime('%H:%M:%S')} {task}: {what}, {seconds:.1f} s", flush=True)
