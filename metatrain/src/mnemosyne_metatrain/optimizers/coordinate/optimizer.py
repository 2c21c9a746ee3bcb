"""The coordinate-wise optimizer: every coordinate is a stream of tokens with its own memory.

The published optimizer without its spatial encoder. For each coordinate, with x its features:

    q, k, v = W x;   N_j <- lambda_j N_j + phi_j(k) v^T;   Psi_j <- lambda_j Psi_j + phi_j(k)
    y_j = phi_j(q)^T N_j / phi_j(q)^T Psi_j
    (a, w) = MLP(x, y, what is known of its tensor);   u = -eta e^a (d + sum_i c tanh(w_i) d_i)

d is Adam's direction; the d_i are d itself, the gradient, a slow mean and Adafactor's direction,
each bounded. A zero read-out has a = w = 0: Adam, with the width prior's step size eta. Without any
gradient there is no update.

The price is the state: 44 floats a coordinate with the default sizes, where Adam has 2. It is meant
for nets of up to about 10^5 parameters.

Source: arXiv 2302.01128, the coordinate-wise variant. The features, the prior step size, what the
read-out is told of the tensor, and the correction as a sum of directions are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.components.associative_memory import (
    AdditiveMemory,
    read_additive,
    write_additive,
)
from mnemosyne_metatrain.layout import Layout, Params
from mnemosyne_metatrain.optimizers.base import (
    StepInputs,
    Theta,
    Tree,
    Updates,
    without_decay,
)
from mnemosyne_metatrain.optimizers.coordinate import moments
from mnemosyne_metatrain.optimizers.coordinate.config import CoordinateConfig
from mnemosyne_metatrain.optimizers.mnemosyne import conditions
from mnemosyne_metatrain.optimizers.mnemosyne.dense import Attention, dense, init_dense

_GRADIENT_LIMIT = 1e18


class CoordinateState(NamedTuple):
    """State of a training run; the coordinates of all tensors are one axis, P.

    Attributes:
        moments: Means of gradients and of their squares.
        recall: Each coordinate's memory in time: N [P, J, M, D] and Psi [P, J, M].
        log_step: Log step size over its prior, [P].
        trace: Means of the loss.
        scale: Features of each tensor's scale at the start, [T, 2].
    """

    moments: moments.Moments
    recall: AdditiveMemory
    log_step: jax.Array
    trace: conditions.LossTrace
    scale: jax.Array


@dataclass(frozen=True)
class CoordinateMnemosyne:
    """The coordinate-wise optimizer; see `CoordinateConfig`."""

    config: CoordinateConfig = field(default_factory=CoordinateConfig)
    name: str = "mnemosyne-coordinate"

    @property
    def attention(self) -> Attention:
        """Sizes of the attention in time; each discount has its own projection."""
        c = self.config
        num_features = c.memory_features // len(c.discounts)
        inputs = moments.NUM_FEATURES
        return Attention(inputs, c.key_width, c.value_width, 0, num_features, c.feature_map)

    def init_theta(self, key: jax.Array) -> Theta:
        """Draws weights whose read-out is zero."""
        c = self.config
        keys = jax.random.split(key, 4 + len(c.discounts))
        recalled = len(c.discounts) * c.value_width
        inputs = moments.NUM_FEATURES + recalled
        discounts = jnp.asarray(c.discounts)
        learned: Tree = {
            "heads": self.attention.init(keys[0]),
            "discounts": jnp.log(discounts) - jnp.log1p(-discounts),
            "hidden": init_dense(keys[1], inputs, c.hidden),
            "tensor": init_dense(keys[2], conditions.NUM_CONDITIONS, c.hidden),
            "out": init_dense(keys[3], c.hidden, 1 + moments.NUM_DIRECTIONS, 0.0),
        }
        projections = [self.attention.init_projection(k) for k in keys[4:]]
        return Theta(learned, {"projection": jnp.stack(projections), "knobs": c.knobs.arrays()})

    def prepare(self, theta: Theta, layout: Layout) -> jax.Array:
        """Computes the prior step size of each coordinate, [P]."""
        prior = conditions.prior_step(_tensors(layout), theta.fixed["knobs"])
        return moments.spread(layout, prior)

    def init(self, layout: Layout, params: Params | None = None) -> CoordinateState:
        """Returns empty memories."""
        c, size = self.config, layout.num_parameters
        shape = (size, len(c.discounts), self.attention.size)
        return CoordinateState(
            moments=moments.empty_moments(size),
            recall=AdditiveMemory(jnp.zeros((*shape, c.value_width)), jnp.zeros(shape)),
            log_step=jnp.zeros(size),
            trace=conditions.empty_trace(),
            scale=conditions.scale_features(_tensors(layout), params),
        )

    def update(
        self,
        theta: Theta,
        prepared: jax.Array,
        layout: Layout,
        state: CoordinateState,
        grads: Params,
        inputs: StepInputs,
    ) -> tuple[Updates, CoordinateState]:
        """Computes one step of every coordinate; see the module's summary."""
        c, knobs, learned = self.config, theta.fixed["knobs"], theta.learned
        grad = moments.flatten(layout, grads)
        grad = jnp.clip(grad, -_GRADIENT_LIMIT, _GRADIENT_LIMIT)
        decays = (c.decay_fast, c.decay_slow, c.decay_square)
        written = moments.write(state.moments, grad, decays)
        signals = moments.read(layout, written, grad, knobs["epsilon"])
        trace = conditions.update_trace(state.trace, inputs)

        features = jnp.concatenate([signals.features, 0.25 * state.log_step[:, None]], axis=-1)
        recalled, recall = self._recall(theta, state.recall, features)
        shared = conditions.shared_features(trace, inputs, written.mass_square)
        known = jnp.concatenate(
            [
                jnp.asarray(conditions.tensor_features(_tensors(layout))),
                jnp.broadcast_to(shared, (len(layout.specs), shared.shape[0])),
                state.scale,
            ],
            axis=-1,
        )
        own = jnp.concatenate([features, knobs["gate_cam"] * recalled], axis=-1)
        told = moments.spread(layout, dense(learned["tensor"], known))
        out = dense(learned["out"], jnp.tanh(dense(learned["hidden"], own) + told))

        target = knobs["eta_temper"] * _bend(2.0 * out[:, 0], knobs["eta_low"], knobs["eta_high"])
        change = knobs["eta_smoothing"] * (target - state.log_step)
        log_step = state.log_step + jnp.minimum(change, knobs["eta_rise"])
        weights = knobs["gate_correction"] * knobs["correction"] * jnp.tanh(out[:, 1:])
        read = signals.adam + jnp.sum(weights * signals.directions, axis=-1)
        update = moments.unflatten(layout, -prepared * jnp.exp(log_step) * read)
        return without_decay(update), CoordinateState(written, recall, log_step, trace, state.scale)

    def _recall(
        self, theta: Theta, memory: AdditiveMemory, features: jax.Array
    ) -> tuple[jax.Array, AdditiveMemory]:
        """Writes each coordinate's token to its memory, and reads it back, [P, J D]."""
        heads = self.attention.heads(theta.learned["heads"], features)
        maps = jax.vmap(self.attention.features, in_axes=(None, None, 0), out_axes=2)
        phi_q, phi_k = maps(heads.query, heads.key, theta.fixed["projection"])
        discounts = jax.nn.sigmoid(theta.learned["discounts"])[:, None]
        memory = write_additive(memory, phi_k, heads.value[:, None, :], discounts)
        read = read_additive(memory, phi_q)
        return read.reshape(features.shape[0], -1), memory


def _tensors(layout: Layout) -> Layout:
    """The same tensors, each as one chunk."""
    return Layout(layout.specs, 1, max(spec.size for spec in layout.specs))


def _bend(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Bends x smoothly into (low, high), with slope 1 at 0."""
    return jnp.where(x < 0, -low * jnp.tanh(x / -low), high * jnp.tanh(x / high))
