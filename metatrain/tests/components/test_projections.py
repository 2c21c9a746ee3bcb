"""Projections: orthogonality, norms, and the CWY product against explicit reflections."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnemosyne_metatrain.components import projections

# Compiled whole: much quicker than operation by operation.
draw_block_orthogonal = jax.jit(projections.draw_block_orthogonal, static_argnums=(1, 2, 3))
cwy_projection = jax.jit(projections.cwy_projection)
t_cwy = jax.jit(projections.t_cwy, static_argnums=1)


def orthogonality_error(directions: jax.Array, size: int) -> float:
    """Largest entry of |R R^T - I| over the blocks of `size` rows, in double precision."""
    rows = np.asarray(directions, np.float64)
    blocks = [rows[i : i + size] for i in range(0, len(rows), size)]
    return max(np.abs(b @ b.T - np.eye(len(b))).max() for b in blocks)


def reference_reflections(vectors: np.ndarray) -> np.ndarray:
    """H(v_1) ... H(v_L) by multiplying the matrices out."""
    product = np.eye(vectors.shape[1])
    for v in vectors.astype(np.float64):
        product = product @ (np.eye(len(v)) - 2 * np.outer(v, v) / (v @ v))
    return product


@pytest.mark.parametrize(("num_rows", "size"), [(16, 16), (10, 4), (3, 8), (1, 1)])
def test_drawn_rows_are_orthogonal_in_blocks(num_rows, size):
    projection = draw_block_orthogonal(jax.random.key(0), num_rows, size)

    assert projection.matrix.shape == (num_rows, size)
    assert projection.matrix.dtype == jnp.float32
    assert orthogonality_error(projection.directions, size) < 1e-6
    np.testing.assert_allclose(
        np.linalg.norm(projection.matrix, axis=-1), projection.norms, rtol=1e-5
    )


def test_drawn_directions_are_uniform_over_rotations():
    def draw(key: jax.Array) -> jax.Array:
        return projections.draw_block_orthogonal(key, 3, 3, dtype=jnp.float64).directions

    drawn = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 8000)))

    # Entries of a Haar matrix have mean 0, variance 1/d and trace of mean 0.
    np.testing.assert_allclose(drawn.mean(axis=0), np.zeros((3, 3)), atol=0.03)
    np.testing.assert_allclose(drawn.var(axis=0), np.full((3, 3), 1 / 3), atol=0.02)
    assert abs(np.trace(drawn, axis1=1, axis2=2).mean()) < 0.05


def test_norms_are_those_of_gaussian_vectors_or_fixed():
    chi = projections.draw_norms(jax.random.key(2), 20_000, 6)
    fixed = projections.draw_norms(jax.random.key(2), 5, 16, "fixed")

    assert abs(np.mean(np.square(chi)) - 6) < 0.1
    np.testing.assert_array_equal(fixed, np.full(5, 4.0, np.float32))


@pytest.mark.parametrize(("reflections", "size", "columns"), [(5, 5, 5), (3, 6, 6), (4, 7, 2)])
def test_cwy_equals_the_product_of_its_reflections(reflections, size, columns):
    vectors = np.random.default_rng(3).normal(size=(reflections, size))

    actual = t_cwy(vectors, columns)

    expected = reference_reflections(vectors)[:, :columns]
    np.testing.assert_allclose(actual, expected, atol=1e-14)


def test_cwy_stays_orthogonal_to_1e_6_through_training():
    vectors = projections.draw_householder(jax.random.key(4), 24, 16)
    norms = projections.draw_norms(jax.random.key(5), 24, 16)
    target = jax.random.normal(jax.random.key(6), (24, 16))
    optimizer = optax.adam(3e-2)

    def loss(v: jax.Array) -> jax.Array:
        return jnp.mean((projections.cwy_projection(v, norms).matrix - target) ** 2)

    def step(carry, _):
        v, state = carry
        value, gradient = jax.value_and_grad(loss)(v)
        updates, state = optimizer.update(gradient, state)
        return (v + updates, state), (value, projections.cwy_projection(v, norms).directions)

    train = jax.jit(lambda carry: jax.lax.scan(step, carry, length=200)[1])
    losses, directions = train((vectors, optimizer.init(vectors)))

    assert directions.dtype == jnp.float32
    assert losses[-1] < 0.9 * losses[0]
    assert max(orthogonality_error(d, 16) for d in np.asarray(directions)[::10]) < 1e-6


@pytest.mark.parametrize("size", [8, 32])
def test_cwy_is_orthogonal_to_1e_6_for_every_draw(size):
    vectors = np.random.default_rng(size).normal(size=(200, size, size)).astype(np.float32)

    drawn = np.asarray(jax.jit(jax.vmap(projections.cwy))(vectors))

    assert drawn.dtype == np.float32
    assert max(orthogonality_error(q, size) for q in drawn) < 3e-7


@pytest.mark.parametrize("kind", ["equal", "tiny", "zero"])
def test_cwy_stays_orthogonal_for_degenerate_vectors(kind):
    draw = np.random.default_rng(7).normal(size=(8, 8)).astype(np.float32)
    vectors = {"equal": np.tile(draw[:1], (8, 1)), "tiny": 1e-12 * draw, "zero": 0 * draw}[kind]

    def total(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        directions = projections.cwy(v)
        return jnp.sum(directions**3), directions

    gradient, directions = jax.jit(jax.grad(total, has_aux=True))(vectors)

    assert orthogonality_error(directions, 8) < 1e-6
    assert np.isfinite(gradient).all()


def test_learned_projection_has_the_rows_and_norms_asked_for():
    norms = projections.draw_norms(jax.random.key(8), 10, 4)
    vectors = projections.draw_householder(jax.random.key(9), 10, 4, num_reflections=2)

    projection = cwy_projection(vectors, norms)

    assert vectors.shape == (3, 2, 4)
    assert projection.matrix.shape == (10, 4)
    np.testing.assert_allclose(np.linalg.norm(projection.matrix, axis=-1), norms, rtol=1e-6)
