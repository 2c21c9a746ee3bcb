"""One window of one task: a truncated unroll whose meta-loss is differentiable, in two versions.

First order means that the gradients of the inner task are constants: no second derivative of the
task is taken. The loss at parameters x is then written l + g . (x - const x), where l and g are
already known from the step, so that a window costs one gradient of the net a step.

The exact version has the same values and is differentiated through the gradients, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.layout import Layout, Params
from mnemosyne_metatrain.optimizers.base import (
    Optimizer,
    State,
    StepInputs,
    Theta,
    Updates,
    apply_updates,
)
from mnemosyne_metatrain.tasks.base import Batch, TaskFamily
from mnemosyne_metatrain.training.recipe import RecipeArrays

_LAST_STEPS = 10
_AVERAGE_DECAY = 0.98
_TINY = 1e-8


class Told(NamedTuple):
    """Which optional inputs a task tells its optimizer; each 0 or 1."""

    loss: jax.Array
    progress: jax.Array
    scale: jax.Array


class TaskState(NamedTuple):
    """A task in training.

    Attributes:
        drawn: What the family drew.
        told: Which inputs the optimizer is told.
        params: Its parameters.
        average: Their running mean.
        opt_state: The optimizer's state.
        step: Steps taken, a float.
        length: Steps of the whole unroll, a float.
        first_loss: The loss at the start.
        smoothed: A running mean of the loss.
        best: The least running mean so far.
    """

    drawn: Any
    told: Told
    params: Params
    average: Params
    opt_state: State
    step: jax.Array
    length: jax.Array
    first_loss: jax.Array
    smoothed: jax.Array
    best: jax.Array


class WindowMetrics(NamedTuple):
    """What is reported of a window; scalars."""

    meta_loss: jax.Array
    last_ratio: jax.Array
    spikes: jax.Array


def step_cost(
    loss: jax.Array, first_loss: jax.Array, best: jax.Array, recipe: RecipeArrays
) -> tuple[jax.Array, jax.Array]:
    """Returns the cost of a step, and its log part alone."""
    log_part = jnp.log(jnp.maximum(loss, 0.0) + recipe.floor * first_loss)
    rise = jnp.log(jnp.maximum(loss, _TINY)) - jnp.log(jnp.maximum(best, _TINY))
    spike = jax.nn.relu(rise - recipe.spike_margin)
    mean_part = recipe.mean_weight * loss / first_loss
    return log_part + mean_part + recipe.spike_weight * spike, log_part


def _loss_and_gradient(
    family: TaskFamily,
    task: TaskState,
    params: Params,
    average: Params,
    train: Batch,
    held_out: Batch,
    recipe: RecipeArrays,
    is_exact: bool,
) -> tuple[jax.Array, jax.Array, Params]:
    """Returns the mixed loss with its first-order gradient, the training loss, its gradient.

    In the exact version nothing is held constant, and the linear term is 0 with derivative 0.

    The training batch is read at the parameters; the held-out batch at a point between them and
    their running mean, where the noise of the last steps counts less.
    """
    share, toward = recipe.validation_share, recipe.average_point
    point = {name: x + toward * (average[name] - x) for name, x in params.items()}
    places = {name: jnp.stack([x, point[name]]) for name, x in params.items()}
    hold: Callable[[Any], Any] = (lambda x: x) if is_exact else jax.lax.stop_gradient
    fixed = hold(places)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), train, held_out)
    evaluate = jax.vmap(jax.value_and_grad(family.loss), in_axes=(0, 0, None))
    losses, grads = hold(evaluate(fixed, both, task.drawn))
    weights = jnp.stack([1.0 - share, share])
    linear = jnp.zeros(())
    for name, grad in grads.items():
        products = (grad * (places[name] - fixed[name])).reshape(2, -1)
        linear = linear + jnp.sum(weights * jnp.sum(products, axis=1))
    mixed = jnp.sum(weights * losses) + linear
    return mixed, losses[0], {name: grad[0] for name, grad in grads.items()}


def run_window(
    optimizer: Optimizer,
    layout: Layout,
    family: TaskFamily,
    recipe: RecipeArrays,
    theta: Theta,
    task: TaskState,
    train: Batch,
    held_out: Batch,
    is_exact: bool = False,
    keeps_products: bool = True,
) -> tuple[jax.Array, tuple[TaskState, WindowMetrics]]:
    """Runs a window and returns its meta-loss, differentiable in theta.

    Args:
        optimizer: The learned optimizer.
        layout: Of the family's nets.
        family: The task's family.
        recipe: Loss form.
        theta: Weights of the optimizer.
        task: The task at the start of the window.
        train: Training batches of all steps, leaves [W, ...].
        held_out: Held-out batches of all steps.
        is_exact: Whether derivatives go through the gradients of the task. The least loss so far,
            which spikes are measured from, is a constant in both versions.
        keeps_products: Whether the backward pass finds the products of the optimizer's matrices
            as the forward pass left them, instead of computing them again.
    """
    prepared = optimizer.prepare(theta, layout)
    length = jax.tree.leaves(train)[0].shape[0]

    # Storing every intermediate for the backward pass would cost more kernels than the step has.
    policies = jax.checkpoint_policies
    policy = policies.dots_saveable if keeps_products else policies.nothing_saveable

    @partial(jax.checkpoint, policy=policy)
    def take_step(opt_state: State, grads: Params, inputs: StepInputs) -> tuple[Updates, State]:
        return optimizer.update(theta, prepared, layout, opt_state, grads, inputs)

    def body(carry: Any, batches: tuple[Batch, Batch]) -> tuple[Any, Any]:
        params, average, opt_state, step, smoothed, best = carry
        mixed, loss, grads = _loss_and_gradient(
            family, task, params, average, *batches, recipe, is_exact
        )
        cost, log_part = step_cost(mixed, task.first_loss, best, recipe)
        inputs = StepInputs(loss, task.told.loss, step / task.length, task.told.progress)
        updates, opt_state = take_step(opt_state, grads, inputs)
        params = apply_updates(params, updates)
        average = {
            name: _AVERAGE_DECAY * average[name] + (1.0 - _AVERAGE_DECAY) * value
            for name, value in params.items()
        }
        value = jax.lax.stop_gradient(mixed)
        smoothed = jnp.where(step == 0, value, 0.9 * smoothed + 0.1 * value)
        best = jnp.where(step == 0, value, jnp.minimum(best, smoothed))
        carry = (params, average, opt_state, step + 1.0, smoothed, best)
        return carry, (cost, log_part, value)

    start = (task.params, task.average, task.opt_state, task.step, task.smoothed, task.best)
    end, (costs, log_parts, losses) = jax.lax.scan(body, start, (train, held_out))
    params, average, opt_state, step, smoothed, best = end
    is_last = (step >= task.length).astype(jnp.float32)
    meta_loss = jnp.mean(costs)
    meta_loss = meta_loss + is_last * recipe.last_weight * jnp.mean(log_parts[-_LAST_STEPS:])
    metrics = WindowMetrics(
        meta_loss=meta_loss,
        last_ratio=jnp.mean(losses[length // 2 :]) / task.first_loss,
        spikes=jnp.mean((losses > 2.0 * task.first_loss).astype(jnp.float32)),
    )
    next_task = task._replace(
        params=params,
        average=average,
        opt_state=opt_state,
        step=step,
        smoothed=smoothed,
        best=best,
    )
    return meta_loss, (next_task, jax.lax.stop_gradient(metrics))
