"""Training runs for evaluation: many replicas of one task in one compiled program.

All runs of a seed start from the same parameters and see the same batches. The number of steps is
an argument, so that one program serves all horizons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from mnemosyne_metatrain.layout import Layout, Params
from mnemosyne_metatrain.optimizers.base import Optimizer, StepInputs, Theta, apply_updates
from mnemosyne_metatrain.suite.task import SuiteTask
from mnemosyne_metatrain.tasks.base import Batch, Data

SEGMENT = 125


class Curves(NamedTuple):
    """What is measured of a run.

    Attributes:
        held_out: The loss on the fixed held-out examples after each segment, [segments].
        mean_loss: The mean training loss from the start to the end of each segment, [segments].
        last_loss: The mean training loss of each segment, [segments].
        first_loss: The first training loss.
        worst_loss: The largest training loss.
    """

    held_out: jax.Array
    mean_loss: jax.Array
    last_loss: jax.Array
    first_loss: jax.Array
    worst_loss: jax.Array


class AdamPoint(NamedTuple):
    """A point of Adam's grid; scalars."""

    rate: jax.Array
    cosine: jax.Array
    warmup: jax.Array
    clip: jax.Array
    decay: jax.Array
    horizon: jax.Array


TakeStep = Callable[[Any, Params, jax.Array, Params, jax.Array], tuple[Any, Params]]


def _run(
    task: SuiteTask,
    data: Data,
    held_out: Batch,
    key: jax.Array,
    segments: jax.Array,
    max_segments: int,
    start: Callable[[Params], Any],
    take_step: TakeStep,
) -> Curves:
    init_key, batch_key = jax.random.split(key)
    params = task.init(init_key, None)

    def inner(carry: Any, step: jax.Array) -> tuple[Any, jax.Array]:
        state, params = carry
        batch = task.batch(jax.random.fold_in(batch_key, step), None, data, "train")
        loss, grads = jax.value_and_grad(task.loss)(params, batch, None)
        return take_step(state, params, loss, grads, step), loss

    def outer(index: jax.Array, carry: Any) -> Any:
        inner_carry, losses, held = carry
        steps = index * SEGMENT + jnp.arange(SEGMENT)
        inner_carry, segment = jax.lax.scan(inner, inner_carry, steps)
        values = jax.lax.map(lambda b: task.loss(inner_carry[1], b, None), held_out, batch_size=4)
        return inner_carry, losses.at[index].set(segment), held.at[index].set(jnp.mean(values))

    losses = jnp.full((max_segments, SEGMENT), jnp.nan)
    held = jnp.full(max_segments, jnp.nan)
    begin = ((start(params), params), losses, held)
    _, losses, held = jax.lax.fori_loop(0, segments, outer, begin)
    each = jnp.mean(losses, axis=1)
    counts = jnp.arange(1, max_segments + 1)
    worst = jnp.max(jnp.where(jnp.isnan(losses), -jnp.inf, losses))
    return Curves(held, jnp.cumsum(each) / counts, each, losses[0, 0], worst)


def adam_run(
    task: SuiteTask,
    max_segments: int,
    data: Data,
    held_out: Batch,
    key: jax.Array,
    segments: jax.Array,
    point: AdamPoint,
) -> Curves:
    """Trains a task with AdamW at one point of the grid."""

    def start(params: Params) -> tuple[jax.Array, jax.Array]:
        flat = ravel_pytree(params)[0]
        return jnp.zeros_like(flat), jnp.zeros_like(flat)

    def take_step(
        state: Any, params: Params, loss: jax.Array, grads: Params, step: jax.Array
    ) -> tuple[Any, Params]:
        first, second = state
        flat, unravel = ravel_pytree(params)
        grad = ravel_pytree(grads)[0]
        norm = jnp.linalg.norm(grad)
        grad = grad * jnp.where(point.clip > 0, jnp.minimum(1.0, point.clip / norm), 1.0)
        first = 0.9 * first + 0.1 * grad
        second = 0.999 * second + 0.001 * grad * grad
        t = step + 1.0
        direction = first / (1 - 0.9**t) / (jnp.sqrt(second / (1 - 0.999**t)) + 1e-8)
        rate = point.rate * jnp.minimum(1.0, t / jnp.maximum(point.warmup * point.horizon, 1.0))
        cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(step / point.horizon, 1.0)))
        rate = rate * jnp.where(point.cosine > 0, cosine, 1.0)
        flat = flat - rate * (direction + point.decay * flat)
        return (first, second), unravel(flat)

    return _run(task, data, held_out, key, segments, max_segments, start, take_step)


def learned_run(
    optimizer: Optimizer,
    layout: Layout,
    task: SuiteTask,
    max_segments: int,
    data: Data,
    held_out: Batch,
    key: jax.Array,
    segments: jax.Array,
    theta: Theta,
    tell_horizon: jax.Array,
) -> Curves:
    """Trains a task with a learned optimizer that is told the loss, and the horizon or not."""
    prepared = optimizer.prepare(theta, layout)
    horizon = (segments * SEGMENT).astype(jnp.float32)

    def take_step(
        state: Any, params: Params, loss: jax.Array, grads: Params, step: jax.Array
    ) -> tuple[Any, Params]:
        inputs = StepInputs(loss, jnp.ones(()), step / horizon, tell_horizon)
        updates, state = optimizer.update(theta, prepared, layout, state, grads, inputs)
        return state, apply_updates(params, updates)

    def start(params: Params) -> Any:
        return optimizer.init(layout, params)

    return _run(task, data, held_out, key, segments, max_segments, start, take_step)
