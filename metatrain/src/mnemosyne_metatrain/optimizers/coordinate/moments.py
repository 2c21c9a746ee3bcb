"""What a coordinate knows of its gradients: three means, features of them, and directions.

With constant keys, r1 and s are Adam's bias-corrected moments; r2 is a slower mean. All that is
derived from them is a quotient before it is anything else, so that gradients times a power of two
give the same bits. With S the mean of s over the tensor and q = s / S,

    q^ = product over the axes of (mean of q over all other axes)

is Adafactor's second moment: for a matrix, its rows' means times its columns' means. It has no
state of its own, and does not depend on the order in which the axes are stored.

Source of q^: arXiv 1804.04235, section 3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.layout import Layout, ParameterSpec, Params

NUM_FEATURES = 10
NUM_DIRECTIONS = 4

# Ratios of second moments within a tensor are read inside these bounds.
_RATIO_MIN, _RATIO_MAX = 1e-12, 1e12
_LOG_LIMIT = 4.0
_DIRECTION_LIMIT = 4.0


class Moments(NamedTuple):
    """Means r1, r2 of the gradient and s of its square, [P], and the masses they divide by."""

    fast: jax.Array
    slow: jax.Array
    square: jax.Array
    mass_fast: jax.Array
    mass_slow: jax.Array
    mass_square: jax.Array


class Signals(NamedTuple):
    """What a step makes of the moments.

    Attributes:
        adam: Adam's direction, [P].
        directions: What the correction is a sum of, bounded, [P, 4].
        features: Features of each coordinate, [P, 9]; the step size is added by the caller.
    """

    adam: jax.Array
    directions: jax.Array
    features: jax.Array


def empty_moments(size: int) -> Moments:
    """Returns means of nothing."""
    zeros, mass = jnp.zeros(size), jnp.zeros(())
    return Moments(zeros, zeros, zeros, mass, mass, mass)


def write(moments: Moments, grad: jax.Array, decays: tuple[float, float, float]) -> Moments:
    """Takes in a gradient [P]; `decays` are those of r1, r2 and s."""
    values = (grad, grad, grad * grad)
    masses = [d * m + 1.0 for d, m in zip(decays, moments[3:], strict=True)]
    means = [
        old + (new - old) / mass for old, new, mass in zip(moments[:3], values, masses, strict=True)
    ]
    return Moments(*means, *masses)


def flatten(layout: Layout, values: Params) -> jax.Array:
    """Joins tensors, each in the order in which it is stored, to one vector [P]."""
    return jnp.concatenate(
        [
            (values[s.name].transpose() if s.transposed else values[s.name]).reshape(-1)
            for s in layout.specs
        ]
    )


def unflatten(layout: Layout, flat: jax.Array) -> Params:
    """Returns the tensors that [P] holds; the inverse of `flatten`."""
    result, start = {}, 0
    for spec in layout.specs:
        value = flat[start : start + spec.size].reshape(spec.stored_shape)
        result[spec.name] = value.transpose() if spec.transposed else value
        start += spec.size
    return result


def spread(layout: Layout, values: jax.Array) -> jax.Array:
    """Repeats a row for each tensor [T, ...] over its coordinates, [P, ...].

    Slices, and no gather: the derivative is then a sum of fixed order on every device.
    """
    rows = [
        jnp.broadcast_to(values[i], (spec.size, *values.shape[1:]))
        for i, spec in enumerate(layout.specs)
    ]
    return jnp.concatenate(rows)


def _relative(spec: ParameterSpec, square: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns S, a scalar that is 0 for a tensor without gradients, and q and q^, flat."""
    mean = jnp.mean(square)
    ratio = square / jnp.where(mean > 0, mean, 1.0)
    if len(spec.shape) < 2:
        return mean, ratio, jnp.ones_like(ratio)
    grid, factored = ratio.reshape(spec.stored_shape), jnp.ones(())
    axes = range(len(spec.shape))
    for axis in axes:
        others = tuple(a for a in axes if a != axis)
        factored = factored * jnp.mean(grid, axis=others, keepdims=True)
    return mean, ratio, factored.reshape(-1)


def read(layout: Layout, moments: Moments, grad: jax.Array, epsilon: jax.Array) -> Signals:
    """Reads moments that already hold the gradient; all is 0 where there never was a gradient.

    Args:
        layout: The tensors.
        moments: Means with this gradient.
        grad: The gradient, [P].
        epsilon: Added to normalized roots; relative, so that units of the loss do not matter.
    """
    means, ratios, factors, start = [], [], [], 0
    for spec in layout.specs:
        square = moments.square[start : start + spec.size]
        mean, ratio, factored = _relative(spec, square)
        means.append(mean)
        ratios.append(ratio)
        factors.append(factored)
        start += spec.size
    mean = jnp.stack(means)
    alive = spread(layout, (mean > 0).astype(jnp.float32))
    unit = spread(layout, jnp.sqrt(jnp.where(mean > 0, mean, 1.0)))
    ratio = jnp.clip(jnp.concatenate(ratios), _RATIO_MIN, _RATIO_MAX)
    factored = jnp.clip(jnp.concatenate(factors), _RATIO_MIN, _RATIO_MAX)

    root = jnp.sqrt(ratio) + epsilon
    # One division after the other: the square of the product can underflow in the derivative.
    adam = moments.fast / unit / root
    novelty = grad / unit / root
    slow = moments.slow / unit / root
    shared = moments.fast / unit / (jnp.sqrt(factored) + epsilon)
    directions = jnp.stack([adam, novelty, slow, shared], axis=-1)
    directions = jnp.clip(directions, -_DIRECTION_LIMIT, _DIRECTION_LIMIT)
    features = [
        _half_log(novelty * novelty),
        jnp.sign(grad),
        *(0.5 * directions[:, i] for i in range(NUM_DIRECTIONS)),
        jnp.clip(novelty * adam, -_DIRECTION_LIMIT, _DIRECTION_LIMIT),
        alive * _half_log(ratio),
        alive * _half_log(factored),
    ]
    return Signals(adam, directions, jnp.stack(features, axis=-1))


def _half_log(square: jax.Array) -> jax.Array:
    """Half the logarithm of a square, clipped to [-4, 4], halved."""
    limit = math.exp(2.0 * _LOG_LIMIT)
    return 0.25 * jnp.log(jnp.clip(square, 1.0 / limit, limit))
