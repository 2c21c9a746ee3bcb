"""Compiled runs of one task on one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnemosyne_metatrain.evaluation.grid import segment_of
from mnemosyne_metatrain.evaluation.rules import Point, stack_points
from mnemosyne_metatrain.evaluation.runs import (
    SEGMENT,
    Curves,
    baseline_run,
    curves_of,
    learned_run,
)
from mnemosyne_metatrain.evaluation.weights import Candidate
from mnemosyne_metatrain.layout import Layout
from mnemosyne_metatrain.optimizers.base import Theta
from mnemosyne_metatrain.suite.task import SuiteTask

# Four times the longest horizon, in segments: the size of curves in compiled programs.
MAX_SEGMENTS = 4 * 10_000 // SEGMENT
_FIRST_SEED = 7
# Stands in for the examples of a batch where the compiler counts nothing.
_GUESSED_EXAMPLES = 256
# A step is never cheaper than its kernel launches, here in floating-point operations.
_LAUNCHES = 3e7


def seed_keys(seeds: int, first: int = 0) -> jax.Array:
    """Keys of the seeds from a first one on, the same for all optimizers."""
    return jax.vmap(jax.random.key)(jnp.arange(seeds) + _FIRST_SEED + first)


def step_cost(task: SuiteTask) -> float:
    """Floating-point operations of one gradient, as the compiler counts them."""
    data = jax.tree.map(jnp.asarray, task.data())

    def gradient(key: jax.Array) -> Any:
        params = task.init(key)
        return jax.value_and_grad(task.loss)(params, task.batch(key, None, data, "train"))

    lowered = jax.jit(gradient).lower(jax.random.key(0))
    try:
        counts: Any = lowered.cost_analysis()
    except Exception:  # Not every platform counts; its errors have no common type.
        counts = None
    if not counts or "flops" not in counts:
        return _GUESSED_EXAMPLES * 6.0 * sum(spec.size for spec in task.specs)
    return float(counts["flops"])


def replicas_for(flops: float) -> int:
    """How many runs to put side by side: enough to fill a device, few enough to waste little.

    Small nets wait for kernel launches, so more replicas cost nothing; for the others the number
    is a multiple of five, the usual number of seeds, and bounds memory.
    """
    if flops < 3e6:
        return 420
    if flops < 1e8:
        return 140
    return 70 if flops < 3e9 else 1


@dataclass(frozen=True)
class Programs:
    """A task's compiled runs.

    Attributes:
        task: The task.
        device: Where they run.
        replicas: Runs side by side in the baselines' program.
        baseline: Takes keys, segments, reads, points; None if there are no baselines to run.
        learned: For each candidate: takes keys, segments, weights, whether the horizon is told.
        before_chunk: Called before each call of a program; may raise to stop.
        first_seed: The first seed of all runs.
    """

    task: SuiteTask
    device: jax.Device
    replicas: int
    baseline: Callable[..., Curves] | None
    learned: tuple[Callable[..., Curves], ...]
    before_chunk: Callable[[], None] = lambda: None
    first_seed: int = 0

    def after(self, seeds: int) -> Programs:
        """The same programs on the seeds after the first ones."""
        return replace(self, first_seed=seeds)

    def run_points(
        self, points: Sequence[Point], horizon: int, seeds: int, read_all: bool
    ) -> Curves:
        """Runs points on so many seeds, in chunks of bounded size; curves [points, seeds]."""
        assert self.baseline is not None
        flat = [(point, seed) for point in points for seed in range(seeds)]
        keys = seed_keys(seeds, self.first_seed)
        reads = np.zeros(MAX_SEGMENTS, bool)
        reads[segment_of(horizon)] = True
        chunks = []
        for start in range(0, len(flat), self.replicas):
            self.before_chunk()
            chunk = flat[start : start + self.replicas]
            padded = chunk + chunk[:1] * (self.replicas - len(chunk))
            curves = self.baseline(
                *jax.device_put(
                    (
                        keys[np.asarray([seed for _, seed in padded])],
                        np.asarray(horizon // SEGMENT),
                        reads | read_all,
                        stack_points([point for point, _ in padded], horizon),
                    ),
                    self.device,
                )
            )
            chunks.append([np.asarray(value)[: len(chunk)] for value in curves])
        joined = (np.concatenate(pieces) for pieces in zip(*chunks, strict=True))
        shape = (len(points), seeds)
        return curves_of(value.reshape(*shape, *value.shape[1:]) for value in joined)

    def run_learned(
        self, index: int, thetas: Theta, horizon: int, seeds: int, told: bool
    ) -> Curves:
        """Runs the weights of one candidate; curves [members, seeds]."""
        self.before_chunk()
        keys = seed_keys(seeds, self.first_seed)
        arguments = (keys, np.asarray(horizon // SEGMENT), thetas, np.float32(told))
        curves = self.learned[index](*jax.device_put(arguments, self.device))
        return curves_of(np.asarray(value) for value in curves)


def lower_programs(
    task: SuiteTask,
    candidates: Sequence[Candidate],
    seeds: int,
    width: int,
    device: jax.Device,
    before_chunk: Callable[[], None] = lambda: None,
) -> tuple[Callable[[], Programs], float]:
    """Traces all runs of a task; returns what compiles them, and the cost of a step.

    Args:
        task: The task.
        candidates: Weights that are run.
        seeds: Seeds of a learned run.
        width: Most runs of baselines that are wanted side by side; 0 if there are none.
        device: Where they run.
        before_chunk: Called before each call of a program.
    """
    data = jax.device_put(jax.tree.map(np.asarray, task.data()), device)
    held_out = jax.device_put(jax.jit(task.held_out)(data), device)
    flops = step_cost(task)
    replicas = min(replicas_for(flops), width)
    segments = np.asarray(1)
    lowered_baseline = None
    if width:
        run = partial(baseline_run, task, MAX_SEGMENTS)
        over = jax.vmap(run, in_axes=(None, None, 0, None, None, 0))
        some = stack_points([Point("adam", "constant", 1e-3)] * replicas, SEGMENT)
        keys = jnp.repeat(seed_keys(1), replicas, axis=0)
        arguments = (keys, segments, np.zeros(MAX_SEGMENTS, bool), some)
        lowered_baseline = jax.jit(over).lower(data, held_out, *jax.device_put(arguments, device))
    lowered = []
    for candidate in candidates:
        cell_size = int(getattr(candidate.optimizer.config, "cell_size", 32))  # type: ignore[attr-defined]
        layout = Layout(task.specs, cell_size)
        run_one = partial(learned_run, candidate.optimizer, layout, task, MAX_SEGMENTS)
        by_seed = jax.vmap(run_one, in_axes=(None, None, 0, None, None, None))
        by_theta = jax.vmap(by_seed, in_axes=(None, None, None, None, 0, None))
        inputs = (seed_keys(seeds), segments, candidate.thetas, np.float32(0.0))
        lowered.append(jax.jit(by_theta).lower(data, held_out, *jax.device_put(inputs, device)))

    def compile_all() -> Programs:
        baseline = None if lowered_baseline is None else lowered_baseline.compile()
        return Programs(
            task,
            device,
            replicas,
            None if baseline is None else partial(baseline, data, held_out),
            tuple(partial(program.compile(), data, held_out) for program in lowered),
            before_chunk,
        )

    return compile_all, max(flops, _LAUNCHES)
