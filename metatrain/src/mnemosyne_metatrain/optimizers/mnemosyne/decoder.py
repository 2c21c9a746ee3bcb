"""The decoder: from what a chunk knows to how it steps.

Its last maps start at zero; zero leaves every number at its prior.
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

_NUM_OUTPUTS = 6
_LOG_GAIN_LIMIT = 1.3862943611198906  # log 4
_SHARP_RANGE, _FAST_RANGE, _SLOW_RANGE = 2.0, 2.0, 1.0
_GROWTH_RANGE, _DECAY_RANGE = 2.0, 2.5


class Decision(NamedTuple):
    """What a chunk decides.

    Attributes:
        log_step: Target of the log step size, over its prior, [C].
        mixture: Targets of the log weights of what is read, over their priors.
        growth: kappa, how fast the keys of r2 grow, [C].
        decay: Weight decay as a share of the step, [C].
        log_gain: Log gain of each cell, bounded, [C, K].
    """

    log_step: jax.Array
    mixture: Mixture
    growth: jax.Array
    decay: jax.Array
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
            knobs: Gates and priors.
            inputs: Token, read-out and context, [C, inputs].
            cells: Tokens of the cells, [C, K, cell_width].
        """
        hidden = jnp.tanh(dense(weights["hidden"], inputs))
        out = dense(weights["out"], hidden)
        growth = jnp.exp(knobs["gate_growth"] * _GROWTH_RANGE * jnp.tanh(out[:, 3]))
        decay = jnp.exp(knobs["gate_decay"] * _DECAY_RANGE * jnp.tanh(out[:, 4]))
        log_gain = _LOG_GAIN_LIMIT * jnp.tanh(dense(weights["gain"], cells)[..., 0])
        return Decision(
            log_step=_bounded(2.0 * out[:, 0], knobs["eta_low"], knobs["eta_high"]),
            mixture=Mixture(
                knobs["gate_mixture"] * _SHARP_RANGE * jnp.tanh(out[:, 5]),
                knobs["gate_mixture"] * _FAST_RANGE * jnp.tanh(out[:, 1]),
                knobs["gate_mixture"] * _SLOW_RANGE * jnp.tanh(out[:, 2]),
            ),
            growth=1.0 + knobs["growth"] * growth,
            decay=knobs["decay"] * decay,
            log_gain=knobs["gate_cell_gain"] * log_gain,
        )


def _bounded(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Bends x smoothly into (low, high), with slope 1 at 0."""
    return jnp.where(x < 0, -low * jnp.tanh(x / -low), high * jnp.tanh(x / high))
