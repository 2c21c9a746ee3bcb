"""Affine maps and attention heads: the few pieces that every level of the flagship is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.components.feature_maps import (
    FeatureMapConfig,
    FeatureMapKind,
    apply_feature_map,
    nearest_size,
)
from mnemosyne_metatrain.components.projections import draw_block_orthogonal
from mnemosyne_metatrain.optimizers.base import Tree


def init_dense(key: jax.Array, inputs: int, outputs: int, scale: float = 1.0) -> Tree:
    """Draws an affine map; scale 0 is the zero map."""
    weight = scale * jax.random.normal(key, (inputs, outputs)) / math.sqrt(inputs)
    return {"w": weight, "b": jnp.zeros(outputs)}


def dense(weights: Tree, x: jax.Array) -> jax.Array:
    """X W + b over the last axis."""
    result: jax.Array = x @ weights["w"] + weights["b"]
    return result


def unit(x: jax.Array) -> jax.Array:
    """Bounds the norm over the last axis: x / sqrt(1 + |x|^2), which is below 1.

    The error of random features is heavy-tailed above norm 1.
    """
    return x * jax.lax.rsqrt(1.0 + jnp.sum(x * x, axis=-1, keepdims=True))


class Heads(NamedTuple):
    """Bounded queries and keys, and values, of one attention."""

    query: jax.Array
    key: jax.Array
    value: jax.Array


@dataclass(frozen=True)
class Attention:
    """Sizes of an attention whose queries, keys and values come from one affine map.

    Attributes:
        inputs: Width of a token.
        key_width: Width of queries and keys.
        value_width: Width of values.
        positional: Width of what is appended to queries and keys.
        num_features: Features that are wanted; a map that has none of this size has the nearest.
        kind: Feature map.
    """

    inputs: int
    key_width: int
    value_width: int
    positional: int
    num_features: int
    kind: FeatureMapKind

    @property
    def feature_map(self) -> FeatureMapConfig:
        """The feature map of queries and keys with their positions."""
        width = self.key_width + self.positional
        size = nearest_size(self.kind, width, self.num_features)
        return FeatureMapConfig(self.kind, width, size, epsilon=1e-2)

    @property
    def size(self) -> int:
        """Features that there are."""
        return self.feature_map.num_features

    def init_projection(self, key: jax.Array) -> jax.Array:
        """Draws the projection, fixed and saved, [rows, width]; [0, width] if none is needed."""
        config = self.feature_map
        if not config.num_rows:
            return jnp.zeros((0, config.input_size))
        return draw_block_orthogonal(key, config.num_rows, config.input_size).matrix

    def init(self, key: jax.Array) -> Tree:
        """Draws the map to queries, keys and values."""
        return init_dense(key, self.inputs, 2 * self.key_width + self.value_width)

    def heads(self, weights: Tree, tokens: jax.Array) -> Heads:
        """Returns queries, keys and values of tokens [..., inputs]."""
        return self.split(dense(weights, tokens))

    def split(self, joined: jax.Array) -> Heads:
        """Splits [..., 2 key_width + value_width], and bounds queries and keys."""
        width = self.key_width
        both = joined[..., : 2 * width].reshape(*joined.shape[:-1], 2, width)
        query, key = jnp.moveaxis(unit(both), -2, 0)
        return Heads(query, key, joined[..., 2 * width :])

    def features(self, query: jax.Array, key: jax.Array, projection: jax.Array) -> jax.Array:
        """Returns phi of queries and of keys, [2, ..., size]."""
        rows = projection if self.feature_map.num_rows else None
        return apply_feature_map(self.feature_map, jnp.stack([query, key]), rows)
