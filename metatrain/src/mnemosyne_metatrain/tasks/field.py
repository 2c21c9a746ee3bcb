"""Fields without noise: perceptrons from places, given as waves, to the heights of a random field.

Losses fall by orders of magnitude and go on falling, so that what a step still adds is seen to the
end, unlike in tasks whose labels are noisy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.layout import ParameterSpec, Params
from mnemosyne_metatrain.tasks.base import Split
from mnemosyne_metatrain.tasks.mlp import activate, draw_log_scale

_WAVES = 24
_BUMPS = 12


class DrawnField(NamedTuple):
    """What differs between tasks.

    Attributes:
        activation: One of five.
        batch_size: Places in a batch.
        init_scale: Factor of the matrices at the start.
        log_scale: Of the reparametrization, one a tensor.
        waves: Wave vectors of the inputs, [2, 24].
        bumps: Wave vectors of the field, [2, 12].
        phases: Of the field's waves, [12].
        heights: Of the field's waves, [12].
    """

    activation: jax.Array
    batch_size: jax.Array
    init_scale: jax.Array
    log_scale: jax.Array
    waves: jax.Array
    bumps: jax.Array
    phases: jax.Array
    heights: jax.Array


class FieldBatch(NamedTuple):
    """Inputs [n, 48], heights [n], weights [n] of mean 1."""

    inputs: jax.Array
    targets: jax.Array
    weights: jax.Array


@dataclass(frozen=True)
class FieldFamily:
    """Perceptrons with given hidden widths and one output.

    Attributes:
        widths: Hidden widths.
        max_batch: Places in a batch, of which a task may use fewer.
    """

    widths: tuple[int, ...]
    max_batch: int = 64

    @property
    def name(self) -> str:
        """Name in configurations and reports."""
        return "field_" + "_".join(str(w) for w in self.widths)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of all layers, input and output included."""
        return (2 * _WAVES, *self.widths, 1)

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """A matrix and a bias a layer; every other matrix is stored transposed."""
        result = []
        for i, (n, m) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            result.append(ParameterSpec(f"w{i}", (n, m), n, m, transposed=i % 2 == 0))
            result.append(ParameterSpec(f"b{i}", (m,)))
        return tuple(result)

    def data(self) -> jax.Array:
        """Nothing: places are drawn."""
        return jnp.zeros(())

    def draw(self, key: jax.Array) -> DrawnField:
        """Draws a field of unit variance, smooth or rough, and the waves that places are given as.

        A net sees waves about as short as those of the field, or longer.
        """
        k = jax.random.split(key, 9)
        roughness = 2.0 ** jax.random.uniform(k[0], minval=1.0, maxval=2.8)
        seen = roughness * 2.0 ** jax.random.uniform(k[1], minval=-1.0, maxval=0.5)
        heights = jax.random.normal(k[7], (_BUMPS,))
        return DrawnField(
            activation=jax.random.randint(k[2], (), 0, 5),
            batch_size=jnp.floor(2.0 ** jax.random.uniform(k[3], minval=4.0, maxval=6.01)),
            init_scale=jnp.exp(0.25 * jax.random.normal(k[4])),
            log_scale=draw_log_scale(k[8], len(self.specs), 0.2, 1.0),
            waves=seen * jax.random.normal(k[5], (2, _WAVES)),
            bumps=roughness * jax.random.normal(k[6], (2, _BUMPS)),
            phases=6.3 * jax.random.uniform(jax.random.fold_in(k[6], 1), (_BUMPS,)),
            heights=heights * (2.0 / jnp.sum(heights**2)) ** 0.5,
        )

    def init(self, key: jax.Array, drawn: DrawnField) -> Params:
        """Draws He-scaled matrices and zero biases, over the reparametrization."""
        params = {}
        for i, spec in enumerate(self.specs):
            if len(spec.shape) == 1:
                params[spec.name] = jnp.zeros(spec.shape)
                continue
            scale = drawn.init_scale * (2.0 / spec.fan_in) ** 0.5 * jnp.exp(-drawn.log_scale[i])
            draw = jax.random.normal(jax.random.fold_in(key, i), spec.shape)
            params[spec.name] = scale * draw
        return params

    def batch(self, key: jax.Array, drawn: DrawnField, data: jax.Array, split: Split) -> FieldBatch:
        """Draws places in the square [-1, 1]^2; fresh ones, so that both splits are alike."""
        del data
        places = jax.random.uniform(key, (self.max_batch, 2), minval=-1.0, maxval=1.0)
        seen = places @ drawn.waves
        inputs = jnp.concatenate([jnp.sin(seen), jnp.cos(seen)], axis=-1)
        targets = jnp.sin(places @ drawn.bumps + drawn.phases) @ drawn.heights
        used = jnp.arange(self.max_batch) < drawn.batch_size
        if split == "validation":
            used = jnp.ones_like(used)
        return FieldBatch(inputs, targets, used / jnp.mean(used))

    def loss(self, params: Params, batch: FieldBatch, drawn: DrawnField) -> jax.Array:
        """The mean squared error."""
        scales = jnp.exp(drawn.log_scale)
        x = batch.inputs
        last = len(self.sizes) - 2
        for i in range(last + 1):
            x = x @ (params[f"w{i}"] * scales[2 * i]) + params[f"b{i}"] * scales[2 * i + 1]
            if i < last:
                x = activate(x, drawn.activation)
        return jnp.mean(batch.weights * (x[:, 0] - batch.targets) ** 2)
