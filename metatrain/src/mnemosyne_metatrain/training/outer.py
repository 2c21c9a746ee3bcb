"""The outer step: windows of many tasks, their clipped meta-gradients, Adam, and resets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.estimators import InnerProblem
from mnemosyne_metatrain.layout import Layout
from mnemosyne_metatrain.optimizers.base import Optimizer, Theta, Tree
from mnemosyne_metatrain.tasks.base import Data, TaskFamily
from mnemosyne_metatrain.training.estimation import (
    Carried,
    Correction,
    Estimation,
    TaskEstimates,
)
from mnemosyne_metatrain.training.recipe import RecipeArrays
from mnemosyne_metatrain.training.window import TaskState, Told, WindowMetrics, run_window

_BETA1, _BETA2, _EPSILON = 0.9, 0.99, 1e-8
_AVERAGE_DECAY = 0.998
_MEAN_CLIP = 1.0


class Core(NamedTuple):
    """What meta-training changes, but for the tasks.

    Attributes:
        theta: Weights of the optimizer.
        first: First moments of the outer Adam.
        second: Second moments.
        steps: Outer steps taken.
        average: Running mean of the learned weights, which is what is exported.
        recipe: Numbers of the recipe.
        mask: 1 for weights that are learned, 0 for those that stay.
    """

    theta: Theta
    first: Tree
    second: Tree
    steps: jax.Array
    average: Tree
    recipe: RecipeArrays
    mask: Tree


class OuterMetrics(NamedTuple):
    """What is reported of an outer step; scalars.

    Attributes:
        meta_loss: Mean over the tasks that are not dropped.
        last_ratio: Mean of the losses of a window's second half over the first loss.
        spikes: Share of steps with more than twice the first loss.
        gradient_norm: Of the mean of the clipped meta-gradients.
        dropped: Tasks whose meta-gradient or meta-loss is not finite.
        resets: Tasks that were replaced.
        exact_square: UFOM's mean |G|^2 of a corrected step; 0 of others.
        gap_square: UFOM's mean |G - G_fo|^2.
    """

    meta_loss: jax.Array
    last_ratio: jax.Array
    spikes: jax.Array
    gradient_norm: jax.Array
    dropped: jax.Array
    resets: jax.Array
    exact_square: jax.Array
    gap_square: jax.Array


def init_core(theta: Theta, recipe: RecipeArrays, mask: Tree) -> Core:
    """Returns the start of meta-training."""
    zeros = jax.tree.map(jnp.zeros_like, theta.learned)
    return Core(theta, zeros, zeros, jnp.zeros(()), theta.learned, recipe, mask)


def tree_norm(tree: Any) -> jax.Array:
    """Returns the Euclidean norm of all leaves together."""
    return jnp.sqrt(sum(jnp.sum(x * x) for x in jax.tree.leaves(tree)) + 1e-30)


@dataclass(frozen=True)
class OuterStep:
    """An outer step on tasks of one family.

    Attributes:
        optimizer: The learned optimizer.
        family: The tasks' family.
        layout: Of the family's nets.
        num_tasks: Tasks at once.
        window: Steps of a window.
        min_length: Least steps of an unroll.
        max_length: Most steps of an unroll.
        short_share: Share of unrolls that are cut to one or two windows.
        estimation: Estimator of the meta-gradient.
        keeps_products: Whether a window keeps the optimizer's products for its backward pass.
    """

    optimizer: Optimizer
    family: TaskFamily
    layout: Layout
    num_tasks: int
    window: int
    min_length: int
    max_length: int
    short_share: float
    estimation: Estimation = field(default_factory=Estimation)
    keeps_products: bool = True

    def no_tasks(self, data: Data, learned: Tree) -> Carried:
        """Returns places for tasks, all of them finished, [B, ...]."""
        key, flag = jax.random.key(0), jnp.zeros((), bool)
        shapes = jax.eval_shape(self._new_tasks, key, data, flag, learned)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def _new_tasks(self, key: jax.Array, data: Data, barrier: jax.Array, learned: Tree) -> Carried:
        """Draws tasks, [B, ...]; at a barrier their lengths are spread so that resets are too."""
        keys = jax.random.split(key, self.num_tasks)

        def begin(task_key: jax.Array) -> Carried:
            return self.estimation.carry(self._new_task(task_key, data, barrier), learned)

        return jax.vmap(begin)(keys)

    def _new_task(self, key: jax.Array, data: Data, barrier: jax.Array) -> TaskState:
        k = jax.random.split(key, 8)
        drawn = self.family.draw(k[0])
        params = self.family.init(k[1], drawn)
        told = Told(*(jax.random.uniform(k[2], (3,)) < 0.5).astype(jnp.float32))
        low, high = jnp.log(float(self.min_length)), jnp.log(float(self.max_length))
        length = jnp.exp(jax.random.uniform(k[3], minval=low, maxval=high))
        length = length * jnp.where(barrier, jax.random.uniform(k[4]), 1.0)
        short = self.window * (1.0 + jax.random.bernoulli(k[5]))
        length = jnp.where(jax.random.uniform(k[6]) < self.short_share, short, length)
        length = jnp.ceil(length / self.window) * self.window
        batch = self.family.batch(k[7], drawn, data, "validation")
        first_loss = self.family.loss(params, batch, drawn)
        state = self.optimizer.init(self.layout, params)
        blank = self.optimizer.init(self.layout, None)
        state = jax.tree.map(lambda a, b: jnp.where(told.scale > 0, a, b), state, blank)
        zero = jnp.zeros(())
        return TaskState(
            drawn=drawn,
            told=told,
            params=params,
            average=params,
            opt_state=state,
            step=zero,
            length=length,
            first_loss=first_loss,
            smoothed=first_loss,
            best=first_loss,
        )

    def _batches(self, key: jax.Array, tasks: TaskState, data: Data, split: Any) -> Any:
        """Draws the batches of a window, [B, W, ...]."""
        keys = jax.random.split(key, (self.num_tasks, self.window))

        def draw(step_key: jax.Array, drawn: Any) -> Any:
            return self.family.batch(step_key, drawn, data, split)

        return jax.vmap(jax.vmap(draw, in_axes=(0, None)))(keys, tasks.drawn)

    def __call__(
        self,
        core: Core,
        tasks: Carried,
        data: Data,
        key: jax.Array,
        rate_scale: jax.Array,
        barrier: jax.Array,
        correction: Correction,
    ) -> tuple[Core, Carried, OuterMetrics]:
        """Takes an outer step: finished tasks are replaced first.

        Args:
            core: Weights and their moments.
            tasks: Tasks in training, [B, ...].
            data: The family's data.
            key: Of this step.
            rate_scale: Schedule of the outer step size, a scalar.
            barrier: Whether all tasks are replaced, so that nothing but `core` goes on.
            correction: UFOM's coin.
        """
        train_key, held_key, reset_key = jax.random.split(key, 3)
        noise_key = jax.random.fold_in(key, 3)
        learned, estimation = core.theta.learned, self.estimation
        seen = estimation.view(tasks)
        reset = (seen.step >= seen.length) | barrier
        replacements = self._new_tasks(reset_key, data, barrier, learned)
        tasks = jax.tree.map(lambda new, old: _select(reset, new, old), replacements, tasks)
        seen = estimation.view(tasks)
        train = self._batches(train_key, seen, data, "train")
        held_out = self._batches(held_key, seen, data, "validation")

        problem = self._problem(core)
        found = estimation.estimate(
            problem, learned, tasks, (train, held_out), noise_key, correction, core.mask
        )
        gradient = jax.tree.map(jnp.multiply, found.gradient, core.mask)
        first_window = (seen.step == 0).astype(jnp.float32)
        weights = 1.0 + first_window * (core.recipe.first_weight - 1.0)
        mean, good = _combine(gradient, found.metrics, weights, core.recipe.task_clip)
        core = _adam(core, mean, rate_scale)
        return core, estimation.stop(found.moved, good), _report(found, mean, good, reset)

    def _problem(self, core: Core) -> InnerProblem:
        """The window as the estimators see it; its data are training and held-out batches."""

        def window(is_exact: bool) -> Any:
            def run(learned: Tree, task: TaskState, batches: Any) -> Any:
                theta = Theta(learned, core.theta.fixed)
                train, held_out = batches
                parts = (self.optimizer, self.layout, self.family, core.recipe)
                kept = (is_exact, self.keeps_products)
                return run_window(*parts, theta, task, train, held_out, *kept)

            return run

        return InnerProblem(window(False), window(True))


def _select(condition: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    shape = condition.shape + (1,) * (new.ndim - condition.ndim)
    return jnp.where(condition.reshape(shape), new, old)


def _combine(
    grads: Tree, metrics: WindowMetrics, weights: jax.Array, clip: jax.Array
) -> tuple[Tree, jax.Array]:
    """Clips each task's meta-gradient, drops what is not finite, and averages the rest."""
    norms = jax.vmap(tree_norm)(grads)
    good = jnp.isfinite(norms) & jnp.isfinite(metrics.meta_loss) & (norms < 1e12)
    scale = jnp.where(good, weights * jnp.minimum(1.0, clip / jnp.maximum(norms, 1e-12)), 0.0)
    total = jnp.maximum(jnp.sum(jnp.where(good, weights, 0.0)), 1.0)

    def mean(grad: jax.Array) -> jax.Array:
        grad = _select(good, grad, jnp.zeros_like(grad))
        return jnp.tensordot(scale, grad, axes=1) / total

    return jax.tree.map(mean, grads), good


def _adam(core: Core, grads: Tree, rate_scale: jax.Array) -> Core:
    """One step of the outer Adam, on gradients of bounded norm."""
    scale = jnp.minimum(1.0, _MEAN_CLIP / tree_norm(grads))
    count = core.steps + 1.0
    first = jax.tree.map(lambda m, g: _BETA1 * m + (1 - _BETA1) * scale * g, core.first, grads)
    second = jax.tree.map(
        lambda v, g: _BETA2 * v + (1 - _BETA2) * (scale * g) ** 2, core.second, grads
    )
    correct1, correct2 = 1 - _BETA1**count, 1 - _BETA2**count
    rate = core.recipe.learning_rate * rate_scale

    def move(weight: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        return weight - rate * (m / correct1) / (jnp.sqrt(v / correct2) + _EPSILON)

    learned = jax.tree.map(move, core.theta.learned, first, second)
    keep = jnp.minimum(_AVERAGE_DECAY, count / (count + 10.0))
    average = jax.tree.map(lambda a, w: keep * a + (1 - keep) * w, core.average, learned)
    theta = Theta(learned, core.theta.fixed)
    return Core(theta, first, second, count, average, core.recipe, core.mask)


def _report(found: TaskEstimates, grads: Tree, good: jax.Array, reset: jax.Array) -> OuterMetrics:
    def mean(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(good, values, 0.0)) / jnp.maximum(jnp.sum(good), 1)

    return OuterMetrics(
        meta_loss=mean(found.metrics.meta_loss),
        last_ratio=mean(jnp.minimum(found.metrics.last_ratio, 10.0)),
        spikes=mean(found.metrics.spikes),
        gradient_norm=tree_norm(grads),
        dropped=jnp.sum(~good),
        resets=jnp.sum(reset),
        exact_square=mean(found.squares.exact),
        gap_square=mean(found.squares.gap),
    )
