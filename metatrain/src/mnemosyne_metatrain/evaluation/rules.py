"""The classic rules that learned optimizers are compared with, as one program.

AdamW, SGD with momentum 0.9 and Lion share their memory of two arrays; which rule a replica follows
is a number, so that one compiled program serves all points of all grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

RULES = ("adam", "sgd", "lion")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True, order=True)
class Point:
    """A point of a grid.

    Attributes:
        rule: One of RULES.
        schedule: One of SCHEDULES.
        rate: Learning rate.
        warmup: Share of the horizon over which the rate rises.
        clip: Bound of the gradient's norm; 0 is none.
        decay: Decoupled weight decay.
    """

    rule: str
    schedule: str
    rate: float
    warmup: float = 0.0
    clip: float = 0.0
    decay: float = 0.0


class PointArrays(NamedTuple):
    """Points as arrays of the same shape, with their horizon."""

    rule: jax.Array
    cosine: jax.Array
    rate: jax.Array
    warmup: jax.Array
    clip: jax.Array
    decay: jax.Array
    horizon: jax.Array


def stack_points(points: Sequence[Point], horizon: int) -> PointArrays:
    """Points as arrays [n]."""

    def floats(values: list[float]) -> jax.Array:
        return jnp.asarray(np.asarray(values, np.float32))

    return PointArrays(
        jnp.asarray([RULES.index(p.rule) for p in points], jnp.int32),
        floats([float(p.schedule == "cosine") for p in points]),
        floats([p.rate for p in points]),
        floats([p.warmup for p in points]),
        floats([p.clip for p in points]),
        floats([p.decay for p in points]),
        floats([float(horizon)] * len(points)),
    )


def rule_step(
    point: PointArrays,
    state: tuple[jax.Array, jax.Array],
    flat: jax.Array,
    grad: jax.Array,
    step: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """One step of a rule on a net as one vector.

    Args:
        point: Scalars.
        state: First and second memory, both shaped like `flat`.
        flat: Parameters.
        grad: Their gradient.
        step: Steps done before, a scalar.

    Returns:
        The next state and parameters.
    """
    first, second = state
    norm = jnp.linalg.norm(grad)
    grad = grad * jnp.where(point.clip > 0, jnp.minimum(1.0, point.clip / norm), 1.0)
    is_adam, is_sgd = point.rule == 0, point.rule == 1
    t = step + 1.0
    # Lion's step reads its memory before it is written, with another weight.
    sign = jnp.sign(0.9 * first + 0.1 * grad)
    old = jnp.where(is_adam | is_sgd, 0.9, 0.99)
    new = jnp.where(is_adam, 0.1, jnp.where(is_sgd, 1.0, 0.01))
    first = old * first + new * grad
    second = 0.999 * second + 0.001 * grad * grad
    adam = first / (1 - 0.9**t) / (jnp.sqrt(second / (1 - 0.999**t)) + 1e-8)
    direction = jnp.where(is_adam, adam, jnp.where(is_sgd, first, sign))
    rate = point.rate * jnp.minimum(1.0, t / jnp.maximum(point.warmup * point.horizon, 1.0))
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(step / point.horizon, 1.0)))
    rate = rate * jnp.where(point.cosine > 0, cosine, 1.0)
    return (first, second), flat - rate * (direction + point.decay * flat)
