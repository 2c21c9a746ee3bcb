"""Training runs for evaluation: replicas of one task in one compiled program.

All runs of a seed start from the same parameters and see the same batches. The number of steps and
the places where held-out losses are read are arguments, so that one program serves all horizons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from mnemosyne_metatrain.evaluation.rules import PointArrays, rule_step
from mnemosyne_metatrain.layout import Layout, Params
from mnemosyne_metatrain.optimizers.base import Optimizer, StepInputs, Theta, apply_updates
from mnemosyne_metatrain.suite.task import SuiteTask
from mnemosyne_metatrain.tasks.base import Batch, Data

SEGMENT = 125


class Curves(NamedTuple):
    """What is measured of a run; places after its end, and those not read, are nan.

    Attributes:
        held_out: The loss on the fixed held-out examples after each segment, [segments].
        mean_loss: The mean training loss from the start to the end of each segment, [segments].
        last_loss: The mean training loss of each segment, [segments].
        first_loss: The first training loss.
        worst_loss: The largest training loss; infinite if one was not finite.
        start_loss: The mean loss of the initial parameters on the batches of the first segment.
        trips: How often the guard's trip wire was crossed; nan for an optimizer without a guard.
        capped: Updates of chunks that the guard capped, a step; nan without a guard.
    """

    held_out: jax.Array
    mean_loss: jax.Array
    last_loss: jax.Array
    first_loss: jax.Array
    worst_loss: jax.Array
    start_loss: jax.Array
    trips: jax.Array
    capped: jax.Array


def curves_of(arrays: Iterable[Any]) -> Curves:
    """Curves from their arrays in order, on the host or on a device."""
    return Curves(*arrays)


TakeStep = Callable[[Any, Params, jax.Array, Params, jax.Array], tuple[Any, Params]]


class _Progress(NamedTuple):
    state: Any
    params: Params
    held_out: jax.Array
    each: jax.Array
    first: jax.Array
    worst: jax.Array


def _run(
    task: SuiteTask,
    data: Data,
    held_out: Batch,
    key: jax.Array,
    segments: jax.Array,
    reads: jax.Array | None,
    max_segments: int,
    start: Callable[[Params], Any],
    take_step: TakeStep,
) -> Curves:
    init_key, batch_key = jax.random.split(key)
    params = task.init(init_key, None)

    def batch_of(step: jax.Array) -> Batch:
        return task.batch(jax.random.fold_in(batch_key, step), None, data, "train")

    def inner(carry: Any, step: jax.Array) -> tuple[Any, jax.Array]:
        state, params = carry
        batch = batch_of(step)
        loss, grads = jax.value_and_grad(task.loss)(params, batch, None)
        return take_step(state, params, loss, grads, step), loss

    def read(params: Params) -> jax.Array:
        return jnp.mean(jax.lax.map(lambda b: task.loss(params, b, None), held_out, batch_size=4))

    def outer(index: jax.Array, now: _Progress) -> _Progress:
        steps = index * SEGMENT + jnp.arange(SEGMENT)
        (state, params), losses = jax.lax.scan(inner, (now.state, now.params), steps)
        if reads is None:
            value = read(params)
        else:
            value = jax.lax.cond(reads[index], read, lambda _: jnp.asarray(jnp.nan), params)
        return _Progress(
            state,
            params,
            now.held_out.at[index].set(value),
            now.each.at[index].set(jnp.mean(losses)),
            jnp.where(index == 0, losses[0], now.first),
            jnp.maximum(now.worst, jnp.max(jnp.nan_to_num(losses, nan=jnp.inf))),
        )

    unread = jnp.full(max_segments, jnp.nan)
    begin = _Progress(start(params), params, unread, unread, jnp.zeros(()), jnp.full((), -jnp.inf))
    end = jax.lax.fori_loop(0, segments, outer, begin)
    counts = jnp.arange(1, max_segments + 1)
    mean = jnp.cumsum(end.each) / counts
    idle = jax.lax.map(lambda step: task.loss(params, batch_of(step), None), jnp.arange(SEGMENT))
    start_loss = jnp.mean(idle)
    trips, capped = _guard_events(end.state)
    steps = segments * SEGMENT
    return Curves(
        end.held_out, mean, end.each, end.first, end.worst, start_loss, trips, capped / steps
    )


def _guard_events(state: Any) -> tuple[jax.Array, jax.Array]:
    """What the guard in an optimizer's state has counted; nan if there is none."""
    guard = getattr(state, "guard", None)
    nothing = jnp.full((), jnp.nan)
    return (nothing, nothing) if guard is None else (guard.trips, guard.capped)


def baseline_run(
    task: SuiteTask,
    max_segments: int,
    data: Data,
    held_out: Batch,
    key: jax.Array,
    segments: jax.Array,
    reads: jax.Array,
    point: PointArrays,
) -> Curves:
    """Trains a task with a classic rule at one point of its grid."""

    def start(params: Params) -> tuple[jax.Array, jax.Array]:
        flat = ravel_pytree(params)[0]
        return jnp.zeros_like(flat), jnp.zeros_like(flat)

    def take_step(
        state: Any, params: Params, loss: jax.Array, grads: Params, step: jax.Array
    ) -> tuple[Any, Params]:
        flat, unravel = ravel_pytree(params)
        state, flat = rule_step(point, state, flat, ravel_pytree(grads)[0], step)
        return state, unravel(flat)

    return _run(task, data, held_out, key, segments, reads, max_segments, start, take_step)


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

    return _run(task, data, held_out, key, segments, None, max_segments, start, take_step)
