"""The coordinate memory: what is stored for each coordinate, and the direction read from it.

For coordinate i of chunk c, with keys a in [1/16, 1] and discounts lambda:

    Psi <- lambda Psi + a;   rho = a / Psi;   r_i <- r_i + rho (g_i - r_i)

The normalized memory r = N / Psi is what is stored. r1 and s have the constant key 1: they are
Adam's bias-corrected moments. r2 is slow and its keys are decoded. With q_i = s_i / mean s:

    m_i = (1 + w1) r1_i + w2 r2_i;   d_i = m_i / sqrt(mean s) / (q_i^p + eps)

At w = 0 and p = 1/2 this is Adam's direction.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Ratios of second moments within a chunk are read inside these bounds.
_RATIO_MIN, _RATIO_MAX = 1e-12, 1e12


class CoordinateMemory(NamedTuple):
    """Memories of all coordinates, [C, K, E], and their masses Psi: a scalar, [C], a scalar."""

    fast: jax.Array
    slow: jax.Array
    square: jax.Array
    mass_fast: jax.Array
    mass_slow: jax.Array
    mass_square: jax.Array


class Mixture(NamedTuple):
    """How a chunk's direction reads its memories: signed weights and exponent, each [C]."""

    fast: jax.Array
    slow: jax.Array
    exponent: jax.Array


def empty_memory(shape: tuple[int, int, int]) -> CoordinateMemory:
    """Returns memories that hold nothing."""
    zeros = jnp.zeros(shape)
    chunks = jnp.zeros(shape[:1])
    return CoordinateMemory(zeros, zeros, zeros, jnp.zeros(()), chunks, jnp.zeros(()))


def adam_mixture(num_chunks: int) -> Mixture:
    """Returns the mixture that makes the direction Adam's."""
    zeros = jnp.zeros(num_chunks)
    return Mixture(zeros, zeros, zeros + 0.5)


def write_constant_keys(
    memory: CoordinateMemory, grad: jax.Array, decay_fast: float, decay_square: float
) -> CoordinateMemory:
    """Writes a gradient to the memories whose keys are constant: r1 and s."""
    mass_fast = decay_fast * memory.mass_fast + 1.0
    mass_square = decay_square * memory.mass_square + 1.0
    fast = memory.fast + (grad - memory.fast) / mass_fast
    square = memory.square + (grad * grad - memory.square) / mass_square
    return memory._replace(fast=fast, square=square, mass_fast=mass_fast, mass_square=mass_square)


def write_slow(
    memory: CoordinateMemory, grad: jax.Array, keys: jax.Array, decay_slow: float
) -> CoordinateMemory:
    """Writes a gradient to r2 with decoded keys [C]."""
    mass = decay_slow * memory.mass_slow + keys
    rate = (keys / mass)[:, None, None]
    slow = memory.slow + rate * (grad - memory.slow)
    return memory._replace(slow=slow, mass_slow=mass)


def direction(
    memory: CoordinateMemory, mixture: Mixture, counts: jax.Array, epsilon: jax.Array
) -> jax.Array:
    """Returns d, [C, K, E]; exactly 0 for a chunk whose memories are all zero.

    Args:
        memory: The memories.
        mixture: How to read them.
        counts: Real coordinates of each chunk, [C].
        epsilon: Added to the normalized root; relative, so that units of the loss do not matter.
    """
    mean_square = jnp.sum(memory.square, axis=(1, 2)) / counts
    alive = mean_square > 0
    mean_square = jnp.where(alive, mean_square, 1.0)[:, None, None]
    ratio = jnp.clip(memory.square / mean_square, _RATIO_MIN, _RATIO_MAX)
    root = jnp.exp(mixture.exponent[:, None, None] * jnp.log(ratio)) + epsilon
    mixed = (1.0 + mixture.fast)[:, None, None] * memory.fast
    mixed = mixed + mixture.slow[:, None, None] * memory.slow
    # One division after the other: the square of their product can underflow in the derivative.
    return jnp.where(alive[:, None, None], mixed / jnp.sqrt(mean_square) / root, 0.0)
