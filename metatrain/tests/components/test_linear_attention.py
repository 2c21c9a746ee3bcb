"""Bi-directional linear attention against the quadratic form by loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemosyne_metatrain.components import linear_attention

bidirectional_attention = jax.jit(linear_attention.bidirectional_attention)


def reference_attention(phi_q, phi_k, values, mask) -> np.ndarray:
    """sum_j K_ij v_j / sum_j K_ij with the whole matrix, in double precision."""
    phi_q, phi_k, values = (np.asarray(x, np.float64) for x in (phi_q, phi_k, values))
    out = np.zeros((len(phi_q), values.shape[1]))
    for i in range(len(phi_q)):
        weights = [float(mask[j]) * float(phi_q[i] @ phi_k[j]) for j in range(len(phi_k))]
        out[i] = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    return out


def draw(dtype: str, queries: int = 5, keys: int = 7):
    rng = np.random.default_rng(0)
    phi_q, phi_k = np.exp(rng.normal(size=(2, queries, 6))), np.exp(rng.normal(size=(2, keys, 6)))
    return tuple(x.astype(dtype) for x in (phi_q, phi_k, rng.normal(size=(2, keys, 3))))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-14), ("float32", 2e-6)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_quadratic_form(dtype, tolerance, masked):
    phi_q, phi_k, values = draw(dtype)
    mask = np.array([[1, 1, 0, 1, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0]]) if masked else None

    out = bidirectional_attention(phi_q, phi_k, values, mask)

    for b in range(2):
        weights = np.ones(7) if mask is None else mask[b]
        expected = reference_attention(phi_q[b], phi_k[b], values[b], weights)
        np.testing.assert_allclose(out[b], expected, tolerance, tolerance)
    assert out.dtype == dtype


def test_padding_changes_nothing():
    phi_q, phi_k, values = draw("float32")
    mask = np.array([True] * 4 + [False] * 3)

    out = bidirectional_attention(phi_q, phi_k, values, mask)

    short = bidirectional_attention(phi_q, phi_k[:, :4], values[:, :4])
    np.testing.assert_allclose(out, short, rtol=1e-6, atol=1e-6)


def test_a_query_without_keys_has_output_and_derivative_zero():
    phi_q, phi_k, values = draw("float32")

    def total(phi_q, phi_k, values):
        return jnp.sum(bidirectional_attention(phi_q, phi_k, values, np.zeros(7)))

    value, gradients = jax.value_and_grad(total, argnums=(0, 1, 2))(phi_q, phi_k, values)

    assert value == 0
    assert all(np.all(np.asarray(g) == 0) for g in gradients)


def test_permuting_keys_changes_nothing_and_permuting_queries_permutes_outputs():
    phi_q, phi_k, values = draw("float64")
    order = np.array([3, 0, 6, 1, 5, 2, 4])

    out = bidirectional_attention(phi_q, phi_k, values)

    shuffled = bidirectional_attention(phi_q[:, ::-1], phi_k[:, order], values[:, order])
    np.testing.assert_allclose(shuffled, out[:, ::-1], rtol=1e-13)
