"""Projections for random features: rows that are orthogonal in blocks, with saved norms.

A projection is a set of unit directions, orthogonal within each block of d rows, and a norm for
each row. Orthogonal rows lower the variance of random features; norms drawn like those of Gaussian
vectors keep them unbiased. Both are part of the weights: they are drawn once, saved, never redrawn.

Directions come from the QR decomposition of Gaussian blocks (fixed), or from a CWY product of
learned Householder reflections, which stays orthogonal whatever the meta-optimizer does to it.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.typing import DTypeLike

NormKind: TypeAlias = Literal["chi", "fixed"]

# A device may round float32 products to fewer bits unless told otherwise; orthogonality to 1e-6
# needs them all.
_EXACT = jax.lax.Precision.HIGHEST


class Projection(NamedTuple):
    """Unit directions [rows, d], orthogonal within blocks of d rows, and row norms [rows]."""

    directions: jax.Array
    norms: jax.Array

    @property
    def matrix(self) -> jax.Array:
        """The rows w that a feature map takes, [rows, d]."""
        return self.directions * self.norms[:, None]


def draw_norms(
    key: jax.Array,
    num_rows: int,
    size: int,
    kind: NormKind = "chi",
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Draws row norms [num_rows].

    Args:
        key: Random key.
        num_rows: Number of rows.
        size: d, the size of a row.
        kind: "chi" draws the norm of a Gaussian vector of `size` (unbiased); "fixed" is sqrt(d)
            for every row (lower variance, slightly biased).
        dtype: Type of the result.
    """
    if kind == "fixed":
        return jnp.full((num_rows,), math.sqrt(size), dtype)
    gaussian = jax.random.normal(key, (num_rows, size), dtype)
    return jnp.sqrt(jnp.sum(gaussian * gaussian, axis=-1))


def draw_block_orthogonal(
    key: jax.Array,
    num_rows: int,
    size: int,
    norm_kind: NormKind = "chi",
    dtype: DTypeLike = jnp.float32,
) -> Projection:
    """Draws a block-orthogonal projection by QR; each block is uniform over rotations (Haar).

    Source: arXiv 2009.14794, section 2.4 (orthogonal random features); arXiv 1610.09072.
    """
    block_key, norm_key = jax.random.split(key)
    num_blocks = -(-num_rows // size)
    gaussian = jax.random.normal(block_key, (num_blocks, size, size), dtype)
    q, r = jnp.linalg.qr(gaussian)
    # QR is unique, and q uniform, only with a positive diagonal of r.
    signs = jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0).astype(dtype)
    q = jax.vmap(_polished)(q * signs[:, None, :])
    directions = q.reshape(num_blocks * size, size)[:num_rows]
    return Projection(directions, draw_norms(norm_key, num_rows, size, norm_kind, dtype))


def draw_householder(
    key: jax.Array,
    num_rows: int,
    size: int,
    num_reflections: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Draws learnable Householder vectors [blocks, reflections, d] for `cwy_projection`.

    Args:
        key: Random key.
        num_rows: Rows of the projection.
        size: d, the size of a row.
        num_reflections: Reflections of a block; d by default, which reaches every rotation up to
            the sign of the determinant.
        dtype: Type of the result.
    """
    shape = (-(-num_rows // size), num_reflections or size, size)
    return jax.random.normal(key, shape, dtype)


def t_cwy(vectors: jax.Array, num_columns: int) -> jax.Array:
    """T-CWY: the first M columns of a product of L Householder reflections, [d, M].

    With u_i = v_i / |v_i| as the columns of U, and S = I/2 + strictly upper part of U^T U:

        H(u_1) ... H(u_L) = I - U S^(-1) U^T,   H(u) = I - 2 u u^T

    The result is on the Stiefel manifold for any vectors; the triangular solve is stable because
    the entries of S^(-1) U^T b are bounded by 2 |b|. What rounding leaves (up to 1.4e-6 of 2,000
    draws in float32) is removed by one Newton-Schulz step, Q (3 I - Q^T Q) / 2 (1.7e-7), which does
    nothing to an orthogonal Q nor to its derivative. A vector shorter than 3e-13 is the identity.

    Args:
        vectors: v_i, [L, d].
        num_columns: M, at most d.

    Source: arXiv 2004.08675, the sections on the CWY and truncated CWY parametrizations.
    """
    size = vectors.shape[-1]
    square = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    # Below 1e-25 the derivative of rsqrt would overflow float32.
    is_long = square > 1e-25
    units = jnp.where(is_long, vectors * jax.lax.rsqrt(jnp.where(is_long, square, 1.0)), 0.0)
    gram = jnp.matmul(units, units.T, precision=_EXACT)
    s = 0.5 * jnp.eye(units.shape[0], dtype=vectors.dtype) + jnp.triu(gram, k=1)
    solved = solve_triangular(s, units[:, :num_columns], lower=False)
    identity = jnp.eye(size, num_columns, dtype=vectors.dtype)
    return _polished(identity - jnp.matmul(units.T, solved, precision=_EXACT))


def _polished(q: jax.Array) -> jax.Array:
    """Squares the distance of q [d, M] from orthonormal columns: a Newton-Schulz step."""
    defect = jnp.eye(q.shape[-1], dtype=q.dtype) - jnp.matmul(q.T, q, precision=_EXACT)
    return q + 0.5 * jnp.matmul(q, defect, precision=_EXACT)


def cwy(vectors: jax.Array) -> jax.Array:
    """CWY: the orthogonal matrix [d, d] that is the product of reflections `vectors` [L, d]."""
    return t_cwy(vectors, vectors.shape[-1])


def cwy_projection(vectors: jax.Array, norms: jax.Array) -> Projection:
    """Builds a projection with learned directions and given norms.

    Args:
        vectors: Learned Householder vectors, [blocks, L, d].
        norms: Row norms, [rows], with rows in ((blocks - 1) d, blocks d]; not learned.
    """
    size = vectors.shape[-1]
    num_rows = norms.shape[0]
    columns = min(size, num_rows)
    blocks = jax.vmap(lambda v: t_cwy(v, columns).T)(vectors)
    return Projection(blocks.reshape(-1, size)[:num_rows], norms)
