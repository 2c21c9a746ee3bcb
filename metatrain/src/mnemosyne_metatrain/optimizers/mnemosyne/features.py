"""Scale-free statistics of cells and chunks: ratios, cosines, and clipped logarithms of ratios.

No feature changes when all gradients of a tensor are multiplied by a constant. A ratio 0/0 reads
as 0. Sums are taken once a cell; a chunk's statistics are made of the sums of its cells.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.optimizers.mnemosyne.memory import CoordinateMemory

NUM_CELL_FEATURES = 11
NUM_CHUNK_STATISTICS = 9
_LOG_LIMIT = 4.0

# Sums of squares below this read as 0: near the least float32, derivatives of roots overflow.
_LEAST = 1e-36


class Sums(NamedTuple):
    """Sums over the coordinates of a cell [C, K], or of a chunk [C].

    "sharp" is g / root(s), "smooth" is r1 / root(s), "slow" is r2, "previous" is the direction of
    the step before.
    """

    size: jax.Array
    grad2: jax.Array
    old2: jax.Array
    square: jax.Array
    slow2: jax.Array
    previous2: jax.Array
    sharp2: jax.Array
    smooth2: jax.Array
    grad_old: jax.Array
    sharp_slow: jax.Array
    smooth_slow: jax.Array
    sharp_previous: jax.Array


def log_ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Half the logarithm of a ratio of squares, clipped to [-4, 4], halved; 0 if either is 0.

    The quotient comes first: it has the same bits whatever power of two both are multiplied by. It
    is clipped before the logarithm, so that derivatives stay finite.
    """
    valid = (numerator > _LEAST) & (denominator > _LEAST)
    ratio = jnp.where(valid, numerator, 1.0) / jnp.where(valid, denominator, 1.0)
    limit = math.exp(2.0 * _LOG_LIMIT)
    return 0.25 * jnp.log(jnp.clip(ratio, 1.0 / limit, limit))


def cosine(product: jax.Array, left2: jax.Array, right2: jax.Array) -> jax.Array:
    """A cosine from a product and two squared norms; 0 if a norm is 0.

    It is divided by one norm after the other: the square of their product can underflow, and the
    derivative of a quotient has it below the line.
    """
    valid = (left2 > _LEAST) & (right2 > _LEAST)
    left = jnp.sqrt(jnp.where(valid, left2, 1.0))
    right = jnp.sqrt(jnp.where(valid, right2, 1.0))
    return jnp.where(valid, jnp.clip(product / left / right, -1.0, 1.0), 0.0)


def cell_sums(
    grad: jax.Array,
    old: CoordinateMemory,
    new: CoordinateMemory,
    inverse: jax.Array,
    previous: jax.Array,
    mask: jax.Array,
) -> Sums:
    """Sums of each cell.

    Args:
        grad: The gradient, [C, K, E].
        old: Memories before this gradient.
        new: Memories with this gradient in r1 and s; its r2 is the old one.
        inverse: 1 / root(s) with this gradient.
        previous: The direction of the step before, [C, K, E].
        mask: 1 for a real coordinate.
    """
    sharp, smooth = grad * inverse, new.fast * inverse
    terms = [
        mask,
        grad * grad,
        old.fast * old.fast,
        new.square,
        old.slow * old.slow,
        previous * previous,
        sharp * sharp,
        smooth * smooth,
        grad * old.fast,
        sharp * old.slow,
        smooth * old.slow,
        sharp * previous,
    ]
    # In the order of the fields; one reduction for all.
    return Sums(*jnp.sum(jnp.stack(terms), axis=-1))


def chunk_sums(sums: Sums) -> Sums:
    """Sums of each chunk from those of its cells."""
    return Sums(*jnp.sum(jnp.stack(sums), axis=-1))


def statistics(sums: Sums) -> list[jax.Array]:
    """The nine statistics that cells and chunks share."""
    return [
        log_ratio(sums.grad2, sums.square),
        cosine(sums.grad_old, sums.grad2, sums.old2),
        cosine(sums.sharp_slow, sums.sharp2, sums.slow2),
        cosine(sums.smooth_slow, sums.smooth2, sums.slow2),
        cosine(sums.sharp_previous, sums.sharp2, sums.previous2),
        log_ratio(sums.smooth2, sums.size),
        log_ratio(sums.slow2, sums.size),
        log_ratio(sums.previous2, sums.size),
        log_ratio(sums.sharp2, sums.size),
    ]


def cell_features(cells: Sums, chunks: Sums) -> jax.Array:
    """Features of each cell, [C, K, 11]: its statistics, and how it differs from its chunk."""
    square = chunks.square / chunks.size
    slow2 = chunks.slow2 / chunks.size
    extra = [
        log_ratio(cells.square, cells.size * square[:, None]),
        log_ratio(cells.slow2, cells.size * slow2[:, None]),
    ]
    return jnp.stack(statistics(cells) + extra, axis=-1)
