"""Scale-free statistics of cells and chunks: ratios, cosines, and clipped logarithms of ratios.

No feature changes when all gradients of a tensor are multiplied by a constant. A ratio 0/0 reads
as 0. Sums are taken once a cell; a chunk's statistics are made of the sums of its cells.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.optimizers.mnemosyne.memory import CoordinateMemory

NUM_CELL_FEATURES = 11
NUM_CHUNK_STATISTICS = 9
_LOG_LIMIT = 4.0


class Sums(NamedTuple):
    """Sums over the coordinates of a cell [C, K], or of a chunk [C]."""

    count: jax.Array
    grad2: jax.Array
    old2: jax.Array
    fast2: jax.Array
    slow2: jax.Array
    square: jax.Array
    previous2: jax.Array
    grad_old: jax.Array
    grad_slow: jax.Array
    fast_slow: jax.Array
    grad_previous: jax.Array
    adam2: jax.Array
    novelty: jax.Array


def log_ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Half the logarithm of a ratio of squares, clipped to [-4, 4], halved; 0 if either is 0."""
    valid = (numerator > 0) & (denominator > 0)
    top = jnp.where(valid, numerator, 1.0)
    bottom = jnp.where(valid, denominator, 1.0)
    value = 0.5 * (jnp.log(top) - jnp.log(bottom))
    return 0.5 * jnp.clip(value, -_LOG_LIMIT, _LOG_LIMIT)


def cosine(product: jax.Array, left2: jax.Array, right2: jax.Array) -> jax.Array:
    """A cosine from a product and two squared norms; 0 if a norm is 0."""
    valid = (left2 > 0) & (right2 > 0)
    norm = jnp.sqrt(jnp.where(valid, left2, 1.0)) * jnp.sqrt(jnp.where(valid, right2, 1.0))
    return jnp.where(valid, jnp.clip(product / norm, -1.0, 1.0), 0.0)


def cell_sums(
    grad: jax.Array,
    old: CoordinateMemory,
    new: CoordinateMemory,
    previous: jax.Array,
    mask: jax.Array,
) -> Sums:
    """Sums of each cell.

    Args:
        grad: The gradient, [C, K, E].
        old: Memories before this gradient.
        new: Memories with this gradient in r1 and s; its r2 is the old one.
        previous: The direction of the step before, [C, K, E].
        mask: 1 for a real coordinate.
    """
    safe = jnp.where(new.square > 0, new.square, 1.0)

    def total(x: jax.Array) -> jax.Array:
        return jnp.sum(x, axis=-1)

    return Sums(
        count=total(mask),
        grad2=total(grad * grad),
        old2=total(old.fast * old.fast),
        fast2=total(new.fast * new.fast),
        slow2=total(old.slow * old.slow),
        square=total(new.square),
        previous2=total(previous * previous),
        grad_old=total(grad * old.fast),
        grad_slow=total(grad * old.slow),
        fast_slow=total(new.fast * old.slow),
        grad_previous=total(grad * previous),
        adam2=total(new.fast * new.fast / safe),
        novelty=total(grad * grad / safe),
    )


def chunk_sums(sums: Sums) -> Sums:
    """Sums of each chunk from those of its cells."""
    return Sums(*(jnp.sum(x, axis=-1) for x in sums))


def statistics(sums: Sums) -> list[jax.Array]:
    """The nine statistics that cells and chunks share."""
    return [
        log_ratio(sums.grad2, sums.square),
        cosine(sums.grad_old, sums.grad2, sums.old2),
        cosine(sums.grad_slow, sums.grad2, sums.slow2),
        cosine(sums.fast_slow, sums.fast2, sums.slow2),
        cosine(sums.grad_previous, sums.grad2, sums.previous2),
        log_ratio(sums.fast2, sums.square),
        log_ratio(sums.slow2, sums.square),
        log_ratio(sums.adam2, sums.count),
        log_ratio(sums.novelty, sums.count),
    ]


def cell_features(cells: Sums, chunks: Sums) -> jax.Array:
    """Features of each cell, [C, K, 11]: its statistics, and how it differs from its chunk."""
    square = chunks.square / chunks.count
    fast2 = chunks.fast2 / chunks.count
    extra = [
        log_ratio(cells.square, cells.count * square[:, None]),
        log_ratio(cells.fast2, cells.count * fast2[:, None]),
    ]
    return jnp.stack(statistics(cells) + extra, axis=-1)
