"""Small nets for the evaluation suite: tensors are declared once, nets are plain functions.

Convolutions gather shifted copies and multiply once, so that many nets of the same shape run side
by side as one batched product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.layout import ParameterSpec, Params
from mnemosyne_metatrain.tasks.mlp import normalize


@dataclass
class Declaration:
    """Tensors of a net, with the standard deviation that each starts from.

    Attributes:
        specs: The tensors.
        scales: Standard deviations; 0 starts at zero, and -1 at one.
    """

    specs: list[ParameterSpec] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)

    def matrix(self, name: str, inputs: int, outputs: int, gain: float = 1.0) -> None:
        """Declares a matrix and its bias."""
        self.specs.append(ParameterSpec(name, (inputs, outputs), inputs, outputs))
        self.scales.append(gain / math.sqrt(inputs))
        self.vector(f"{name}.b", outputs)

    def convolution(self, name: str, size: int, inputs: int, outputs: int) -> None:
        """Declares a convolution's kernel and bias."""
        fan_in = size * size * inputs
        self.specs.append(ParameterSpec(name, (size, size, inputs, outputs), fan_in, outputs))
        self.scales.append(math.sqrt(2.0 / fan_in))
        self.vector(f"{name}.b", outputs)

    def vector(self, name: str, size: int, start: float = 0.0) -> None:
        """Declares a vector that starts at 0 or 1."""
        self.specs.append(ParameterSpec(name, (size,)))
        self.scales.append(-start)

    def embedding(self, name: str, rows: int, width: int, scale: float) -> None:
        """Declares a table of vectors."""
        self.specs.append(ParameterSpec(name, (rows, width)))
        self.scales.append(scale)

    def blocks(self, name: str, depth: int, width: int) -> None:
        """Declares the tensors of `transformer`."""
        for i in range(depth):
            self.vector(f"{name}{i}.g1", width, 1.0)
            self.matrix(f"{name}{i}.qkv", width, 3 * width)
            self.matrix(f"{name}{i}.proj", width, width, 1.0 / math.sqrt(2 * depth))
            self.vector(f"{name}{i}.g2", width, 1.0)
            self.matrix(f"{name}{i}.up", width, 4 * width)
            self.matrix(f"{name}{i}.down", 4 * width, width, 1.0 / math.sqrt(2 * depth))
        self.vector(f"{name}.g", width, 1.0)

    def init(self, key: jax.Array) -> Params:
        """Draws the tensors."""
        params = {}
        for i, (spec, scale) in enumerate(zip(self.specs, self.scales, strict=True)):
            if scale <= 0:
                params[spec.name] = jnp.full(spec.shape, -scale)
            else:
                draw = jax.random.normal(jax.random.fold_in(key, i), spec.shape)
                params[spec.name] = scale * draw
        return params


def affine(params: Params, name: str, x: jax.Array) -> jax.Array:
    """X W + b."""
    return x @ params[name] + params[f"{name}.b"]


def convolve(params: Params, name: str, x: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution with zero padding of images [n, height, width, channels]."""
    kernel = params[name]
    size = kernel.shape[0]
    margin = size // 2
    height, width = x.shape[1], x.shape[2]
    x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    shifted = [
        x[:, i : i + height : stride, j : j + width : stride]
        for i in range(size)
        for j in range(size)
    ]
    columns = jnp.concatenate(shifted, axis=-1)
    return columns @ kernel.reshape(-1, kernel.shape[-1]) + params[f"{name}.b"]


def transformer(
    params: Params, name: str, x: jax.Array, depth: int, heads: int, causal: bool
) -> jax.Array:
    """A pre-normalized transformer on tokens [n, length, width]."""
    for i in range(depth):
        prefix = f"{name}{i}"
        y = normalize(x) * params[f"{prefix}.g1"]
        x = x + _attend(params, prefix, y, heads, causal)
        y = normalize(x) * params[f"{prefix}.g2"]
        x = x + affine(params, f"{prefix}.down", jax.nn.gelu(affine(params, f"{prefix}.up", y)))
    return normalize(x) * params[f"{name}.g"]


def _attend(params: Params, prefix: str, x: jax.Array, heads: int, causal: bool) -> jax.Array:
    n, length, width = x.shape
    split = affine(params, f"{prefix}.qkv", x).reshape(n, length, 3, heads, width // heads)
    q, k, v = split[:, :, 0], split[:, :, 1], split[:, :, 2]
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(width // heads)
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e9)
    mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v)
    return affine(params, f"{prefix}.proj", mixed.reshape(n, length, width))


def cross_entropy(
    logits: jax.Array, labels: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """The mean cross-entropy of integer labels, weighted if weights are given."""
    logs = jax.nn.log_softmax(logits)
    picked = -jnp.take_along_axis(logs, labels[..., None], axis=-1)[..., 0]
    if weights is None:
        return jnp.mean(picked)
    return jnp.sum(picked * weights) / jnp.maximum(jnp.sum(weights), 1.0)
