"""Feature maps against plain loops, and against the kernels that they approximate."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemosyne_metatrain.components import feature_maps, projections
from mnemosyne_metatrain.components.feature_maps import FeatureMapConfig, FeatureMapKind

# Compiled whole: much quicker than operation by operation.
apply_feature_map = jax.jit(feature_maps.apply_feature_map, static_argnums=0)

SIZE = 4
KINDS = get_args(FeatureMapKind)
SOFTMAX_KINDS = ("favor_plus", "favor_plus_plus", "hyperbolic", "trigonometric")


def make_config(kind: FeatureMapKind, num_features: int = 16) -> FeatureMapConfig:
    return FeatureMapConfig(kind, SIZE, SIZE if kind == "elu" else num_features)


def reference_features(config: FeatureMapConfig, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """One vector's features by loops in double precision, in the papers' notation."""
    rows, d = len(w), len(x)
    half = sum(v * v for v in x) / 2
    dots = [sum(w[m][a] * x[a] for a in range(d)) for m in range(rows)]
    if config.kind == "favor_plus":
        return np.array([math.exp(p - half) / math.sqrt(rows) for p in dots])
    if config.kind == "favor_plus_plus":
        s = config.square_sum
        rho = (math.sqrt((2 * s + d) ** 2 + 8 * d * s) - 2 * s - d) / (4 * s)
        a = (1 - 1 / rho) / 8
        squares = [sum(v * v for v in row) for row in w]
        b, scale = math.sqrt(1 - 4 * a), (1 - 4 * a) ** (d / 4)
        return np.array(
            [
                scale * math.exp(a * n + b * p - half) / math.sqrt(rows)
                for n, p in zip(squares, dots, strict=True)
            ]
        )
    if config.kind == "hyperbolic":
        signed = dots + [-p for p in dots]
        return np.array([math.exp(p - half) / math.sqrt(2 * rows) for p in signed])
    if config.kind == "trigonometric":
        waves = [math.sin(p) for p in dots] + [math.cos(p) for p in dots]
        return np.array([math.exp(half) * v / math.sqrt(rows) for v in waves])
    if config.kind == "relu":
        return np.array([max(p, 0.0) / math.sqrt(rows) + config.epsilon for p in dots])
    if config.kind == "elu":
        return np.array([v + 1 if v > 0 else math.exp(v) for v in x])
    r = [max(v, 0.0) for v in x] + [max(-v, 0.0) for v in x]
    shifts = config.num_features // (2 * d)
    return np.array([r[j] * r[j - i] for i in range(1, shifts + 1) for j in range(2 * d)])


def draw(
    kind: FeatureMapKind, dtype: str
) -> tuple[FeatureMapConfig, np.ndarray, np.ndarray | None]:
    config = make_config(kind)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5, SIZE)).astype(dtype)
    if config.num_rows == 0:
        return config, x, None
    return config, x, rng.normal(size=(config.num_rows, SIZE)).astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-5)])
def test_equals_the_loops_in_double_precision(kind, dtype, tolerance):
    config, x, projection = draw(kind, dtype)

    phi = apply_feature_map(config, x, projection)

    rows = np.zeros((0, SIZE)) if projection is None else projection.astype(np.float64)
    flat = x.astype(np.float64).reshape(-1, SIZE)
    expected = np.stack([reference_features(config, v, rows) for v in flat])
    assert phi.dtype == dtype
    assert phi.shape == (3, 5, config.num_features)
    np.testing.assert_allclose(phi.reshape(expected.shape), expected, tolerance, tolerance)


@cache
def many_projections() -> np.ndarray:
    """Independent block-orthogonal projections, [1000, 64, SIZE]."""

    def draw_one(key: jax.Array) -> jax.Array:
        return projections.draw_block_orthogonal(key, 64, SIZE, dtype=jnp.float64).matrix

    return np.asarray(jax.jit(jax.vmap(draw_one))(jax.random.split(jax.random.key(2), 1000)))


@pytest.mark.parametrize("kind", SOFTMAX_KINDS)
def test_dot_product_is_unbiased_for_the_softmax_kernel(kind):
    q, k = np.array([0.5, -0.3, 0.4, 0.2]), np.array([0.1, 0.6, -0.2, 0.5])
    config = make_config(kind, 64)
    rows = many_projections()[:, : config.num_rows]

    features = jax.jit(jax.vmap(partial(feature_maps.apply_feature_map, config, np.stack([q, k]))))
    phi = np.asarray(features(rows))

    estimates = (phi[:, 0] * phi[:, 1]).sum(-1)
    standard_error = estimates.std() / math.sqrt(len(estimates))
    assert abs(estimates.mean() - math.exp(q @ k)) < 4 * standard_error
    assert standard_error < 0.02


def test_favor_plus_plus_has_less_variance_than_favor_plus():
    x = np.array([[0.6, 0.2, 0.5, 0.3], [0.5, 0.4, 0.3, 0.4]])
    projection = np.random.default_rng(3).normal(size=(200_000, SIZE))
    square_sum = float(((x[0] + x[1]) ** 2).sum())

    def variance(square_sum: float) -> float:
        phi_q, phi_k = feature_maps.favor_plus_plus(x, projection, square_sum)
        return np.var(phi_q * phi_k * len(projection))

    assert variance(square_sum) < 0.7 * variance(0.0)
    assert variance(square_sum) < variance(10 * square_sum)


def test_favor_plus_plus_is_favor_plus_when_queries_and_keys_cancel():
    _, x, projection = draw("favor_plus", "float64")

    tilted = feature_maps.favor_plus_plus(x, projection, square_sum=0.0)

    np.testing.assert_allclose(tilted, feature_maps.favor_plus(x, projection), 1e-14)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("trigonometric", "dpfp")])
def test_features_that_attention_divides_by_are_positive(kind):
    config, x, projection = draw(kind, "float32")

    assert np.asarray(apply_feature_map(config, 3 * x, projection)).min() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_finite_at_zero_and_far_from_it(kind):
    config, x, projection = draw(kind, "float32")
    far = 3 * x / np.linalg.norm(x, axis=-1, keepdims=True)

    def total(values: jax.Array) -> jax.Array:
        return jnp.sum(feature_maps.apply_feature_map(config, values, projection))

    derivative = jax.jit(jax.grad(total))
    assert np.isfinite(derivative(np.zeros_like(x))).all()
    assert np.isfinite(derivative(far)).all()


@pytest.mark.parametrize(
    ("kind", "num_features"), [("hyperbolic", 15), ("elu", 5), ("dpfp", 12), ("cosine", 16)]
)
def test_refuses_sizes_and_kinds_that_do_not_fit(kind, num_features):
    with pytest.raises(ValueError, match=r"num_features|unknown"):
        FeatureMapConfig(kind, SIZE, num_features)


def test_refuses_a_projection_of_another_shape():
    config, x, projection = draw("hyperbolic", "float32")

    with pytest.raises(ValueError, match="projection"):
        feature_maps.apply_feature_map(config, x, projection[:-1])
