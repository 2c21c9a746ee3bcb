"""Quadratics: a matrix between two ill-conditioned factors, with noisy gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.layout import ParameterSpec, Params
from mnemosyne_metatrain.tasks.base import Split


class DrawnQuadratic(NamedTuple):
    """Factors A, B [n, n], the optimum [n, n], and the noise of gradients."""

    left: jax.Array
    right: jax.Array
    optimum: jax.Array
    noise: jax.Array


@dataclass(frozen=True)
class QuadraticFamily:
    """The loss |A (W - W*) B|^2 / n^2 plus a random linear term, for W of n x n.

    Attributes:
        size: n.
    """

    size: int = 32

    @property
    def name(self) -> str:
        """Name in configurations and reports."""
        return f"quadratic_{self.size}"

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """One matrix and one vector."""
        n = self.size
        return (ParameterSpec("w", (n, n), n, n), ParameterSpec("v", (n,)))

    def data(self) -> None:
        """Nothing: batches are noise."""

    def draw(self, key: jax.Array) -> DrawnQuadratic:
        """Draws two random factors whose rows fall off, and an optimum a few initial norms away."""
        keys = jax.random.split(key, 6)
        n = self.size

        def factor(k: jax.Array) -> jax.Array:
            spread, rest = jax.random.split(k)
            power = jax.random.uniform(spread, maxval=2.0)
            spectrum = jnp.exp(-power * jnp.linspace(0.0, 1.0, n))
            return jax.random.normal(rest, (n, n)) * spectrum[:, None] / jnp.sqrt(n)

        distance = jnp.exp(jax.random.uniform(keys[2], minval=-1.0, maxval=1.0))
        optimum = distance * jax.random.normal(keys[3], (n, n)) / jnp.sqrt(n)
        noise = jnp.exp(jax.random.uniform(keys[4], minval=-4.0, maxval=0.0))
        return DrawnQuadratic(factor(keys[0]), factor(keys[1]), optimum, noise)

    def init(self, key: jax.Array, drawn: DrawnQuadratic) -> Params:
        """A matrix of rms 1/sqrt(n), and a zero vector."""
        n = self.size
        value = jax.random.normal(key, (n, n)) / jnp.sqrt(n)
        return {"w": value, "v": jnp.zeros(n)}

    def batch(self, key: jax.Array, drawn: DrawnQuadratic, data: None, split: Split) -> Params:
        """Draws the linear term; validation has none."""
        n = self.size
        scale = drawn.noise if split == "train" else 0.0 * drawn.noise
        matrix, vector = jax.random.split(key)
        return {
            "w": scale * jax.random.normal(matrix, (n, n)),
            "v": scale * jax.random.normal(vector, (n,)),
        }

    def loss(self, params: Params, batch: Params, drawn: DrawnQuadratic) -> jax.Array:
        """The quadratic; the linear term is 0 at the parameters, and only its gradient counts."""
        residual = drawn.left @ (params["w"] - drawn.optimum) @ drawn.right
        residual = residual + 0.3 * (params["v"] - drawn.optimum[0])
        value = jnp.sum(residual**2) / self.size + 1e-3
        linear = sum(
            jnp.sum(batch[k] * (params[k] - jax.lax.stop_gradient(params[k]))) for k in params
        )
        return value + linear / self.size
