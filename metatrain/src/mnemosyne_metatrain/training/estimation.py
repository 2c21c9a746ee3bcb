"""Meta-gradients of a window of many tasks, by the estimator that a run names.

`first_order` and `truncated` need nothing but a task. `ufom` needs a coin, which is drawn once an
outer step for all tasks and variants, because a mapped condition would run both branches. `pes`
needs a pair of copies of each task, and the noise accumulated since the task began: only for it a
task in training is more than a `TaskState`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from mnemosyne_metatrain import estimators
from mnemosyne_metatrain.estimators import InnerProblem, PesState, UfomAverages, UfomSquares
from mnemosyne_metatrain.optimizers.base import Tree
from mnemosyne_metatrain.training.window import TaskState, WindowMetrics

EstimatorKind = Literal["first_order", "truncated", "ufom", "pes"]

# A task in training: a TaskState, or with PES a PesState of a pair of them.
Carried = Any


class Correction(NamedTuple):
    """UFOM's coin of an outer step, and the probability that it was drawn with; scalars."""

    is_corrected: jax.Array
    probability: jax.Array


class TaskEstimates(NamedTuple):
    """What a window gives for each task, leaves [B, ...].

    Attributes:
        gradient: Meta-gradients.
        moved: The tasks after the window.
        metrics: What the window reported.
        squares: UFOM's squares; zeros for other estimators.
    """

    gradient: Tree
    moved: Carried
    metrics: WindowMetrics
    squares: UfomSquares


@dataclass(frozen=True)
class Estimation:
    """An estimator and its numbers.

    Attributes:
        kind: Which estimator.
        pes_sigma: Standard deviation of PES's perturbations.
        ufom_cost: Time of an exact gradient over that of a first-order one.
        ufom_minimum: Least probability of UFOM's correction.
    """

    kind: EstimatorKind = "first_order"
    pes_sigma: float = 0.01
    ufom_cost: float = 3.0
    ufom_minimum: float = 0.1

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: If the kind is unknown or a number is out of its range.
        """
        if self.kind not in get_args(EstimatorKind):
            known = ", ".join(get_args(EstimatorKind))
            raise ValueError(f"unknown estimator: {self.kind!r}; there are {known}")
        if self.pes_sigma <= 0 or self.ufom_cost <= 0 or not 0 < self.ufom_minimum <= 1:
            raise ValueError("pes_sigma and ufom_cost are positive, ufom_minimum is in (0, 1]")

    def carry(self, task: TaskState, learned: Tree) -> Carried:
        """Returns what is kept of a task that begins."""
        return estimators.init_pes(task, learned) if self.kind == "pes" else task

    def view(self, carried: Carried) -> TaskState:
        """Returns tasks [B, ...] with what does not depend on the weights: draw, step, length."""
        if self.kind != "pes":
            task: TaskState = carried
            return task
        first: TaskState = jax.tree.map(lambda x: x[:, 0], carried.pair)
        return first

    def stop(self, carried: Carried, is_good: jax.Array) -> Carried:
        """Ends the tasks that went wrong: they are as good as finished."""
        if self.kind != "pes":
            return carried._replace(step=jnp.where(is_good, carried.step, jnp.inf))
        step = jnp.where(is_good[:, None], carried.pair.step, jnp.inf)
        return PesState(carried.pair._replace(step=step), carried.accumulated)

    def estimate(
        self,
        problem: InnerProblem,
        learned: Tree,
        carried: Carried,
        data: Any,
        key: jax.Array,
        correction: Correction,
        mask: Tree,
    ) -> TaskEstimates:
        """Runs a window of every task.

        Args:
            problem: The window, in both versions.
            learned: What is meta-trained.
            carried: Tasks, leaves [B, ...].
            data: Batches, leaves [B, W, ...].
            key: Of PES's perturbations.
            correction: UFOM's coin.
            mask: 1 for what PES perturbs, 0 for the rest, shaped like `learned`.
        """
        count = jax.tree.leaves(data)[0].shape[0]
        zeros = jnp.zeros(count)
        squares = UfomSquares(zeros, zeros)
        run: Any
        if self.kind == "ufom":
            run = partial(estimators.ufom_gradient, problem)
            mapped = jax.vmap(run, in_axes=(None, 0, 0, None, None))
            found, squares = mapped(learned, carried, data, *correction)
        elif self.kind == "pes":
            sizes = jax.tree.map(lambda x: self.pes_sigma * x, mask)
            run = partial(estimators.pes_gradient, problem, sigma=self.pes_sigma, sizes=sizes)
            keys = jax.random.split(key, count)
            found = jax.vmap(run, in_axes=(None, 0, 0, 0))(learned, carried, data, keys)
            found = found._replace(aux=jax.tree.map(lambda x: jnp.mean(x, axis=1), found.aux))
        else:
            is_exact = self.kind == "truncated"
            run = estimators.truncated_gradient if is_exact else estimators.first_order_gradient
            run = jax.vmap(partial(run, problem), in_axes=(None, 0, 0))
            found = run(learned, carried, data)
        return TaskEstimates(found.gradient, found.state, found.aux, squares)

    def draw(self, averages: UfomAverages, key: jax.Array) -> Correction:
        """Draws the coin of an outer step; never a correction for other estimators."""
        if self.kind != "ufom":
            return Correction(jnp.zeros((), bool), jnp.ones(()))
        probability = estimators.adaptive_probability(averages, self.ufom_cost, self.ufom_minimum)
        return Correction(estimators.draw_correction(key, probability), probability)
