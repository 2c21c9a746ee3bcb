"""The decoder: from what a chunk knows to how it steps.

Its last maps start at zero; zero means Adam: constant log step size, weights (1, 0), exponent 1/2,
gain 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.optimizers.base import Tree
from mnemosyne_metatrain.optimizers.mnemosyne.config import MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.dense import dense, init_dense
from mnemosyne_metatrain.optimizers.mnemosyne.memory import Mixture

_NUM_OUTPUTS = 5
_LOG_KEY_RANGE = 2.772588722239781  # log 16
_LOG_GAIN_LIMIT = 1.3862943611198906  # log 4


class Decision(NamedTuple):
    """What a chunk decides.

    Attributes:
        log_step: Target of the log step size, over its prior, [C].
        mixture: How its direction reads the memories.
        keys: Keys of the slow memory, in [1/16, 1], [C].
        log_gain: Log gain of each cell, bounded, [C, K].
    """

    log_step: jax.Array
    mixture: Mixture
    keys: jax.Array
    log_gain: jax.Array


@dataclass(frozen=True)
class Decoder:
    """A perceptron on the chunk's token, its read-out in time, and its context.

    Attributes:
        config: Sizes.
        inputs: Width of those three together.
    """

    config: MnemosyneConfig
    inputs: int

    def init(self, key: jax.Array) -> Tree:
        """Draws weights; the output maps are zero."""
        keys = jax.random.split(key, 3)
        c = self.config
        return {
            "hidden": init_dense(keys[0], self.inputs, c.hidden),
            "out": init_dense(keys[1], c.hidden, _NUM_OUTPUTS, 0.0),
            "gain": init_dense(keys[2], c.cell_width, 1, 0.0),
        }

    def decide(self, weights: Tree, knobs: Tree, inputs: jax.Array, cells: jax.Array) -> Decision:
        """Decides for every chunk.

        Args:
            weights: Of this decoder.
            knobs: Gates.
            inputs: Token, read-out and context, [C, inputs].
            cells: Tokens of the cells, [C, K, cell_width].
        """
        hidden = jnp.tanh(dense(weights["hidden"], inputs))
        out = dense(weights["out"], hidden)
        fast = 0.5 * jnp.tanh(out[:, 1])
        slow = knobs["gate_slow"] * 2.0 * jnp.tanh(out[:, 2])
        exponent = _straight_through_clip(
            0.5 - 0.25 * knobs["gate_exponent"] * jnp.tanh(out[:, 4]), 0.0, 0.5
        )
        log_step = _bounded(2.0 * out[:, 0], knobs["eta_low"], knobs["eta_high"])
        log_gain = _LOG_GAIN_LIMIT * jnp.tanh(dense(weights["gain"], cells)[..., 0])
        return Decision(
            log_step=knobs["eta_temper"] * log_step,
            mixture=Mixture(fast, slow, exponent),
            keys=jnp.exp(-_LOG_KEY_RANGE * jax.nn.sigmoid(out[:, 3])),
            log_gain=knobs["gate_cell_gain"] * log_gain,
        )


def _bounded(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Bends x smoothly into (low, high), with slope 1 at 0."""
    return jnp.where(x < 0, -low * jnp.tanh(x / -low), high * jnp.tanh(x / high))


def _straight_through_clip(x: jax.Array, low: float, high: float) -> jax.Array:
    """Clips, with the derivative of the identity: the start is at an edge."""
    return x + jax.lax.stop_gradient(jnp.clip(x, low, high) - x)
