"""Coordinate-wise LSTM optimizers: the baselines that the published optimizer is compared with.

`lstm` is that of Andrychowicz et al. 2016 (arXiv 1606.04474): two layers of 20 units, the gradient
given as a clipped logarithm and a sign, the update a scaled linear read-out. `rnnprop` is that of
Lv et al. 2017 (arXiv 1703.03633): the gradient and its mean over the root of its mean square, an
affine map with elu before the LSTM, and a bounded read-out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.layout import Layout, Params
from mnemosyne_metatrain.optimizers.base import (
    StepInputs,
    Theta,
    Tree,
    Updates,
    without_decay,
)
from mnemosyne_metatrain.optimizers.mnemosyne.dense import dense, init_dense

_LOG_SPAN = 10.0
_BETA = 0.95


class LstmState(NamedTuple):
    """Hidden and cell values of each layer, [layers, C, K, E, hidden], and two means, [C, K, E]."""

    hidden: jax.Array
    cell: jax.Array
    mean: jax.Array
    square: jax.Array
    mass: jax.Array


@dataclass(frozen=True)
class LstmConfig:
    """Sizes.

    Attributes:
        normalized: Whether features and read-out are RNNProp's.
        hidden: Units of a layer.
        layers: Layers.
        output_scale: Factor of the read-out.
        chunk_size: Most coordinates in a chunk of the layout.
        cell_size: Coordinates in a cell of the layout.
    """

    normalized: bool = False
    hidden: int = 20
    layers: int = 2
    output_scale: float = 0.01
    chunk_size: int = 1024
    cell_size: int = 32


@dataclass(frozen=True)
class Lstm:
    """An LSTM shared by all coordinates."""

    config: LstmConfig = field(default_factory=LstmConfig)
    name: str = "lstm"

    def init_theta(self, key: jax.Array) -> Theta:
        """Draws weights; forget gates start open."""
        c = self.config
        keys = jax.random.split(key, c.layers + 2)
        width = c.hidden if c.normalized else 2
        learned: Tree = {"out": init_dense(keys[0], c.hidden, 1, 0.1)}
        if c.normalized:
            learned["in"] = init_dense(keys[1], 2, c.hidden)
        for layer in range(c.layers):
            weights = init_dense(keys[layer + 2], width + c.hidden, 4 * c.hidden)
            weights["b"] = weights["b"].at[c.hidden : 2 * c.hidden].set(1.0)
            learned[f"layer{layer}"] = weights
            width = c.hidden
        return Theta(learned, {})

    def prepare(self, theta: Theta, layout: Layout) -> None:
        """Nothing depends on the layout."""

    def init(self, layout: Layout, params: Params | None = None) -> LstmState:
        """Returns zero states."""
        shape = (layout.num_chunks, layout.num_cells, layout.cell_size)
        inner = jnp.zeros((self.config.layers, *shape, self.config.hidden))
        return LstmState(inner, inner, jnp.zeros(shape), jnp.zeros(shape), jnp.zeros(()))

    def update(
        self,
        theta: Theta,
        prepared: Any,
        layout: Layout,
        state: LstmState,
        grads: Params,
        inputs: StepInputs,
    ) -> tuple[Updates, LstmState]:
        """Computes one step of every coordinate."""
        c, learned = self.config, theta.learned
        grad = layout.pack(grads)
        mass = _BETA * state.mass + 1.0
        mean = state.mean + (grad - state.mean) / mass
        square = state.square + (grad * grad - state.square) / mass
        if c.normalized:
            # The derivative of a root at 0 is not finite.
            seen = square > 0
            root = jnp.where(seen, jnp.sqrt(jnp.where(seen, square, 1.0)), 0.0) + 1e-12
            x = jax.nn.elu(dense(learned["in"], jnp.stack([grad / root, mean / root], axis=-1)))
        else:
            x = _log_and_sign(grad)
        hidden, cell = [], []
        for layer in range(c.layers):
            gates = dense(
                learned[f"layer{layer}"], jnp.concatenate([x, state.hidden[layer]], axis=-1)
            )
            enter, keep, leave, value = jnp.split(gates, 4, axis=-1)
            memory = jax.nn.sigmoid(keep) * state.cell[layer]
            memory = memory + jax.nn.sigmoid(enter) * jnp.tanh(value)
            x = jax.nn.sigmoid(leave) * jnp.tanh(memory)
            hidden.append(x)
            cell.append(memory)
        out = dense(learned["out"], x)[..., 0]
        out = jnp.tanh(out) if c.normalized else out
        update = layout.unpack(-c.output_scale * out * jnp.asarray(layout.mask))
        return without_decay(update), LstmState(
            jnp.stack(hidden), jnp.stack(cell), mean, square, mass
        )


def _log_and_sign(grad: jax.Array) -> jax.Array:
    """(log|g| / p, sign g), or (-1, e^p g) for small g, with p = 10; [..., 2]."""
    size = jnp.abs(grad)
    large = size >= jnp.exp(-_LOG_SPAN)
    log = jnp.log(jnp.where(large, size, 1.0)) / _LOG_SPAN
    first = jnp.where(large, log, -1.0)
    second = jnp.where(large, jnp.sign(grad), jnp.exp(_LOG_SPAN) * grad)
    return jnp.stack([first, second], axis=-1)
