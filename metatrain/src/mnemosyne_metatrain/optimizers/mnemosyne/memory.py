"""The coordinate memory: what is stored for each coordinate, and the direction read from it.

Three normalized memories r = N / Psi, written as r <- r + rho (value - r) with rho = key / Psi:

    r1 <- r1 + rho_1 (g - r1)        constant keys, discount 0.9:   Adam's first moment
    s  <- s  + rho_s (g^2 - s)       constant keys, discount 0.999: Adam's second moment
    r2 <- r2 + rho_2 (e - r2)        e = g / root(s), keys that grow with age

    root(s) = sqrt(s) + eps sqrt(mean s');   rho_2 = kappa / (age + kappa - 1)

where s' is s before the step, so that a step reads its gradients once, and the rms of e over a
chunk is bounded, so that one wild gradient is not remembered for long.

A memory without discount whose keys grow like age^(kappa - 1) has this rho_2: it weighs the last
1/kappa of the whole run, however long the run is, and no horizon has to be told. Reading it moves
the parameters like the running average of a trajectory of larger steps (arXiv 2405.15682, schedule-
free learning, whose average has kappa = 2 for constant steps). The direction is

    v = w0 e + w1 r1 / root(s) + w2 r2

At w = (0, 1, 0) this is Adam's. r2 holds directions, not gradients, so that it cannot grow when s
decays, and a run that ends with small gradients is not ruled by its start.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class CoordinateMemory(NamedTuple):
    """Memories of all coordinates, [C, K, E]; masses of r1 and s, and the age, scalars."""

    fast: jax.Array
    slow: jax.Array
    square: jax.Array
    mass_fast: jax.Array
    mass_square: jax.Array
    age: jax.Array


class Mixture(NamedTuple):
    """Log weights of this step's direction and of the memories over their priors, each [C]."""

    sharp: jax.Array
    fast: jax.Array
    slow: jax.Array


class Weights(NamedTuple):
    """w0, w1 and w2 of each chunk, [C]."""

    sharp: jax.Array
    fast: jax.Array
    slow: jax.Array


def empty_memory(shape: tuple[int, int, int]) -> CoordinateMemory:
    """Returns memories that hold nothing."""
    zeros, zero = jnp.zeros(shape), jnp.zeros(())
    return CoordinateMemory(zeros, zeros, zeros, zero, zero, zero)


def write_moments(
    memory: CoordinateMemory,
    grad: jax.Array,
    decay_fast: float,
    decay_square: float,
    age_limit: jax.Array,
) -> CoordinateMemory:
    """Writes a gradient to the memories with constant keys, r1 and s, and counts the step."""
    mass_fast = decay_fast * memory.mass_fast + 1.0
    mass_square = decay_square * memory.mass_square + 1.0
    return memory._replace(
        fast=memory.fast + (grad - memory.fast) / mass_fast,
        square=memory.square + (grad * grad - memory.square) / mass_square,
        mass_fast=mass_fast,
        mass_square=mass_square,
        age=jnp.minimum(memory.age + 1.0, age_limit),
    )


def inverse_root(
    memory: CoordinateMemory, before: jax.Array, counts: jax.Array, epsilon: jax.Array
) -> jax.Array:
    """Returns 1 / root(s), [C, K, E]; 0 where a chunk has seen no gradient.

    Args:
        memory: The memories.
        before: s before this step, [C, K, E].
        counts: Real coordinates of each chunk, [C].
        epsilon: Relative to the chunk's rms, so that units of the loss do not matter.
    """
    mean = jnp.sum(before, axis=(1, 2)) / counts
    # The derivative of a root at 0 is not finite.
    root_mean = jnp.where(mean > 0, jnp.sqrt(jnp.where(mean > 0, mean, 1.0)), 0.0)
    floor = (epsilon * root_mean)[:, None, None]
    known = memory.square > 0
    root = jnp.sqrt(jnp.where(known, memory.square, 1.0)) + floor
    return jnp.where(known, 1.0 / root, 0.0)


def sharp_direction(
    grad: jax.Array, inverse: jax.Array, limit: jax.Array, counts: jax.Array
) -> jax.Array:
    """Returns e, this step's direction, [C, K, E].

    Args:
        grad: The gradient, [C, K, E].
        inverse: 1 / root(s).
        limit: Most that the rms of a chunk's direction may be; what is above is scaled down.
        counts: Real coordinates of each chunk, [C].
    """
    value = grad * inverse
    mean = jnp.sum(value * value, axis=(1, 2)) / counts
    rms = jnp.sqrt(jnp.where(mean > 0, mean, 1.0))
    return (limit / jnp.maximum(rms, limit))[:, None, None] * value


def write_slow(memory: CoordinateMemory, sharp: jax.Array, growth: jax.Array) -> CoordinateMemory:
    """Writes this step's direction e to r2, with kappa of each chunk, at least 1, [C]."""
    rate = growth / (memory.age + growth - 1.0)
    return memory._replace(slow=memory.slow + rate[:, None, None] * (sharp - memory.slow))


def direction(
    memory: CoordinateMemory, inverse: jax.Array, weights: Weights, sharp: jax.Array | None = None
) -> jax.Array:
    """Returns v, [C, K, E]; exactly 0 for a chunk whose memories are all zero.

    Without e it is what the memories say: the part of a direction that a later step can recompute.
    """
    read = weights.fast[:, None, None] * (memory.fast * inverse)
    read = read + weights.slow[:, None, None] * memory.slow
    return read if sharp is None else read + weights.sharp[:, None, None] * sharp
