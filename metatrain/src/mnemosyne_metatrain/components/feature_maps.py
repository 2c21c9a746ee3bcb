"""Feature maps: phi with phi(q) . phi(k) equal to, or close to, a kernel K(q, k).

A feature map turns attention into sums that need no L x L matrix. Three families are here:

* random features of the softmax kernel exp(q . k): FAVOR+ (positive), FAVOR++ (positive, with the
  variance-optimal Gaussian tilt), hyperbolic cosine (positive, pairs of antithetic projections),
  and trigonometric FAVOR, which is a reference only because its denominators change sign;
* random features of another kernel: ReLU;
* deterministic features: elu + 1, and DPFP.

Rows w of a projection are meant to be distributed like N(0, I), possibly orthogonal (see
`projections`). No map subtracts a stabiliser, because a recurrent memory may not change it between
steps: the caller bounds the norms of q and k, and scales them for the temperature that it wants.
The error of random features is heavy-tailed above norm 1.

All maps take x of shape [..., d] and a projection of shape [rows, d], and return [..., features].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

FeatureMapKind: TypeAlias = Literal[
    "favor_plus", "favor_plus_plus", "hyperbolic", "relu", "elu", "dpfp", "trigonometric"
]


def _half_square(x: jax.Array) -> jax.Array:
    """Returns |x|^2 / 2 over the last axis, which is kept with size 1."""
    return 0.5 * jnp.sum(x * x, axis=-1, keepdims=True)


def favor_plus(x: jax.Array, projection: jax.Array) -> jax.Array:
    """FAVOR+: m^(-1/2) exp(W x - |x|^2 / 2), positive and unbiased for exp(q . k).

    Source: arXiv 2009.14794, section 2.3 (linearizing softmax kernels: positive features).
    """
    scale = 1.0 / math.sqrt(projection.shape[0])
    return scale * jnp.exp(x @ projection.T - _half_square(x))


def favor_plus_plus_rho(square_sum: float, size: int) -> float:
    """Returns the optimal rho in (0, 1] of FAVOR++ for s = E|q + k|^2 in `size` dimensions.

    rho = (sqrt((2s + d)^2 + 8ds) - 2s - d) / (4s), written as 2d / (sqrt(...) + 2s + d) so that it
    is stable at s = 0, where rho = 1 and FAVOR++ is FAVOR+.
    """
    s, d = square_sum, size
    root = math.sqrt((2.0 * s + d) ** 2 + 8.0 * d * s)
    return 2.0 * d / (root + 2.0 * s + d)


def favor_plus_plus(x: jax.Array, projection: jax.Array, square_sum: float) -> jax.Array:
    """FAVOR++: m^(-1/2) D exp(A |w|^2 + B w . x - |x|^2 / 2), unbiased for exp(q . k).

    A = (1 - 1/rho) / 8, B = sqrt(1 - 4A), D = (1 - 4A)^(d/4). The constant s = `square_sum` is part
    of the weights: queries and keys that share a memory must share it.

    Source: arXiv 2205.15317, the section on optimal positive random features (OPRF).
    """
    rows, size = projection.shape
    a = (1.0 - 1.0 / favor_plus_plus_rho(square_sum, size)) / 8.0
    b = math.sqrt(1.0 - 4.0 * a)
    scale = math.pow(1.0 - 4.0 * a, size / 4.0) / math.sqrt(rows)
    row_term = a * jnp.sum(projection * projection, axis=-1)
    return scale * jnp.exp(b * (x @ projection.T) + row_term - _half_square(x))


def hyperbolic_cosine(x: jax.Array, projection: jax.Array) -> jax.Array:
    """Hyperbolic cosine: (2m)^(-1/2) exp(-|x|^2 / 2) [exp(W x), exp(-W x)], size 2m.

    Its dot product is the mean of cosh(w . (q + k)) over rows, times the Gaussian factors.

    Source: arXiv 2009.14794, section 2.3 (the cosh form of lemma 1).
    """
    projected = x @ projection.T
    scale = 1.0 / math.sqrt(2 * projection.shape[0])
    exponents = jnp.concatenate([projected, -projected], axis=-1) - _half_square(x)
    return scale * jnp.exp(exponents)


def trigonometric(x: jax.Array, projection: jax.Array) -> jax.Array:
    """Trigonometric FAVOR: m^(-1/2) exp(|x|^2 / 2) [sin(W x), cos(W x)], size 2m.

    Unbiased for exp(q . k), but not positive: a reference, not a map to attend with.

    Source: arXiv 2009.14794, section 2.3 (the sin and cos features that it argues against).
    """
    projected = x @ projection.T
    scale = jnp.exp(_half_square(x)) / math.sqrt(projection.shape[0])
    return scale * jnp.concatenate([jnp.sin(projected), jnp.cos(projected)], axis=-1)


def relu(x: jax.Array, projection: jax.Array, epsilon: float = 1e-3) -> jax.Array:
    """Performer-ReLU: m^(-1/2) max(W x, 0) + epsilon, features of an arc-cosine kernel.

    `epsilon` keeps denominators positive when every projection of a key is negative.

    Source: arXiv 2009.14794, section 2.2 (generalized kernels) with f = ReLU.
    """
    return jax.nn.relu(x @ projection.T) / math.sqrt(projection.shape[0]) + epsilon


def elu_plus_one(x: jax.Array) -> jax.Array:
    """elu(x) + 1, which is exp(x) below zero and x + 1 above; size d, no projection.

    Source: arXiv 2006.16236, section 3.2 (feature maps and computational cost).
    """
    return jnp.where(x > 0, x + 1.0, jnp.exp(jnp.minimum(x, 0.0)))


def dpfp(x: jax.Array, shifts: int) -> jax.Array:
    """DPFP-nu: with r = [relu(x), relu(-x)], the products r * roll(r, i) for i = 1..nu.

    Deterministic and sparse; size 2 nu d, where nu = `shifts`. It is zero where x is zero, so a
    caller that divides by a sum of features guards the division.

    Source: arXiv 2102.11174, section 5.3 (deterministic parameter-free projection).
    """
    rectified = jax.nn.relu(jnp.concatenate([x, -x], axis=-1))
    products = [rectified * jnp.roll(rectified, i, axis=-1) for i in range(1, shifts + 1)]
    return jnp.concatenate(products, axis=-1)


def nearest_size(kind: FeatureMapKind, input_size: int, wanted: int) -> int:
    """Returns the size that a map can have which is nearest to the one wanted.

    Maps that need no projection have sizes of their own: `input_size` for "elu", multiples of twice
    it for "dpfp"; maps of pairs have even sizes.
    """
    if kind == "elu":
        return input_size
    step = {"hyperbolic": 2, "trigonometric": 2, "dpfp": 2 * input_size}.get(kind, 1)
    return step * max(1, round(wanted / step))


@dataclass(frozen=True)
class FeatureMapConfig:
    """Which feature map, and its sizes.

    Attributes:
        kind: The map's name.
        input_size: d, the size of q and k.
        num_features: Size of the output. Even for "hyperbolic" and "trigonometric", equal to
            `input_size` for "elu", a multiple of twice `input_size` for "dpfp".
        square_sum: s = E|q + k|^2, which "favor_plus_plus" is tuned for; 2 suits unit vectors of
            unrelated directions.
        epsilon: Added to the features of "relu".
    """

    kind: FeatureMapKind
    input_size: int
    num_features: int
    square_sum: float = 2.0
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        """Checks the sizes.

        Raises:
            ValueError: If the kind is unknown or `num_features` does not fit it.
        """
        if self.kind not in get_args(FeatureMapKind):
            raise ValueError(f"unknown feature map: {self.kind!r}")
        step = {"hyperbolic": 2, "trigonometric": 2, "dpfp": 2 * self.input_size}.get(self.kind, 1)
        if self.num_features < 1 or self.num_features % step:
            raise ValueError(f"num_features of {self.kind} is not a multiple of {step}")
        if self.kind == "elu" and self.num_features != self.input_size:
            raise ValueError("num_features of elu is not input_size")

    @property
    def num_rows(self) -> int:
        """Rows of the projection that the map needs; 0 if it needs none."""
        if self.kind in ("elu", "dpfp"):
            return 0
        is_paired = self.kind in ("hyperbolic", "trigonometric")
        return self.num_features // 2 if is_paired else self.num_features


def apply_feature_map(
    config: FeatureMapConfig, x: jax.Array, projection: jax.Array | None = None
) -> jax.Array:
    """Applies the configured map.

    Args:
        config: Which map.
        x: Queries or keys, [..., input_size].
        projection: [num_rows, input_size], or None when `config.num_rows` is 0.

    Returns:
        Features, [..., num_features].

    Raises:
        ValueError: If the projection is missing or has another shape.
    """
    if config.kind == "elu":
        return elu_plus_one(x)
    if config.kind == "dpfp":
        return dpfp(x, config.num_features // (2 * config.input_size))
    if projection is None or projection.shape != (config.num_rows, config.input_size):
        raise ValueError(f"{config.kind} needs a projection [num_rows, input_size]")
    if config.kind == "favor_plus":
        return favor_plus(x, projection)
    if config.kind == "favor_plus_plus":
        return favor_plus_plus(x, projection, config.square_sum)
    if config.kind == "hyperbolic":
        return hyperbolic_cosine(x, projection)
    if config.kind == "relu":
        return relu(x, projection, config.epsilon)
    return trigonometric(x, projection)
