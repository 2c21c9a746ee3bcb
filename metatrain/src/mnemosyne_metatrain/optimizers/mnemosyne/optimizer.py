"""The flagship, put together: two memories, one idea.

A step: write the gradient to the memories with constant keys; take statistics of cells and chunks;
level 1 over cells; pooled chunk tokens; memory in time; context from the tokens of the step before;
decode; write the slow memory; read the direction; bound its gain; step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

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
from mnemosyne_metatrain.optimizers.mnemosyne import conditions, features, memory
from mnemosyne_metatrain.optimizers.mnemosyne.config import MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.context import ContextEncoder
from mnemosyne_metatrain.optimizers.mnemosyne.decoder import Decoder
from mnemosyne_metatrain.optimizers.mnemosyne.spatial import Positions, SpatialEncoder
from mnemosyne_metatrain.optimizers.mnemosyne.temporal import Recall, TemporalEncoder

_GRADIENT_LIMIT = 1e18
_PRIOR_COUNT, _PRIOR_SQUARE = 32.0, 0.09

# Statistics of the chunk, its mean square against the tensor's, its log step size.
_CHUNK_INPUTS = features.NUM_CHUNK_STATISTICS + 2 + conditions.NUM_CONDITIONS


class MnemosyneState(NamedTuple):
    """State of a training run.

    Attributes:
        coordinates: Memories of coordinates.
        mixture: How the step before read them, from which its direction is recomputed.
        log_step: Log step size of each chunk over its prior, [C].
        tokens: Chunk tokens of the step before, [C, token_width].
        recall: The memory in time of each chunk.
        trace: Means of the loss.
        scale: Features of the parameters' scale at the start, [C, 2].
    """

    coordinates: memory.CoordinateMemory
    mixture: memory.Mixture
    log_step: jax.Array
    tokens: jax.Array
    recall: Recall
    trace: conditions.LossTrace
    scale: jax.Array


class Prepared(NamedTuple):
    """What depends on weights and layout alone: positions of cells, prior step sizes [C]."""

    positions: Positions
    prior_step: jax.Array


@dataclass(frozen=True)
class Mnemosyne:
    """The flagship optimizer; see `MnemosyneConfig`."""

    config: MnemosyneConfig = field(default_factory=MnemosyneConfig)
    name: str = "mnemosyne"

    @property
    def spatial(self) -> SpatialEncoder:
        """Level 1 and pooling."""
        return SpatialEncoder(self.config, _CHUNK_INPUTS)

    @property
    def context(self) -> ContextEncoder:
        """Level 2."""
        return ContextEncoder(self.config)

    @property
    def temporal(self) -> TemporalEncoder:
        """The memory in time."""
        return TemporalEncoder(self.config)

    @property
    def decoder(self) -> Decoder:
        """The decoder."""
        width = self.config.token_width + self.temporal.width + self.context.width
        return Decoder(self.config, width)

    def init_theta(self, key: jax.Array) -> Theta:
        """Draws weights whose decoder is zero."""
        keys = jax.random.split(key, 4)
        parts = {
            "spatial": self.spatial.init(keys[0]),
            "context": self.context.init(keys[1]),
            "temporal": self.temporal.init(keys[2]),
            "decoder": Theta(self.decoder.init(keys[3]), {}),
        }
        learned: Tree = {name: part.learned for name, part in parts.items()}
        fixed: Tree = {name: part.fixed for name, part in parts.items() if part.fixed}
        fixed["knobs"] = self.config.knobs.arrays()
        return Theta(learned, fixed)

    def prepare(self, theta: Theta, layout: Layout) -> Prepared:
        """Computes positional features and prior step sizes."""
        positions = self.spatial.positions(_part(theta, "spatial"), layout)
        return Prepared(positions, conditions.prior_step(layout, theta.fixed["knobs"]))

    def init(self, layout: Layout, params: Params | None = None) -> MnemosyneState:
        """Returns empty memories."""
        chunks = layout.num_chunks
        return MnemosyneState(
            coordinates=memory.empty_memory((chunks, layout.num_cells, layout.cell_size)),
            mixture=memory.adam_mixture(chunks),
            log_step=jnp.zeros(chunks),
            tokens=jnp.zeros((chunks, self.config.token_width)),
            recall=self.temporal.empty(chunks),
            trace=conditions.empty_trace(),
            scale=conditions.scale_features(layout, params),
        )

    def update(
        self,
        theta: Theta,
        prepared: Prepared,
        layout: Layout,
        state: MnemosyneState,
        grads: Params,
        inputs: StepInputs,
    ) -> tuple[Updates, MnemosyneState]:
        """Computes one step; see the module's summary."""
        c, knobs = self.config, theta.fixed["knobs"]
        counts = jnp.asarray(layout.chunk_counts)
        grad = jnp.clip(layout.pack(grads), -_GRADIENT_LIMIT, _GRADIENT_LIMIT)
        written = memory.write_constant_keys(state.coordinates, grad, c.decay_fast, c.decay_square)
        trace = conditions.update_trace(state.trace, inputs)

        cells, tokens = self._encode(theta, prepared, layout, state, grad, written, trace, inputs)
        recalled, recall = self.temporal.step(_part(theta, "temporal"), state.recall, tokens)
        source = tokens if c.same_step_context else state.tokens
        context = self.context.encode(_part(theta, "context"), knobs, layout, source)
        joined = jnp.concatenate([tokens, knobs["gate_cam"] * recalled, context], axis=-1)
        decision = self.decoder.decide(theta.learned["decoder"], knobs, joined, cells)

        mixture = memory.Mixture(
            *(
                old + knobs["eta_smoothing"] * (new - old)
                for old, new in zip(state.mixture, decision.mixture, strict=True)
            )
        )
        coordinates = memory.write_slow(written, grad, decision.keys, c.decay_slow)
        log_step = _approach(state.log_step, decision.log_step, knobs)
        read = self._bounded_direction(coordinates, mixture, decision.log_gain, counts, knobs)
        step = prepared.prior_step * jnp.exp(log_step)
        update = layout.unpack(-step[:, None, None] * read)
        next_state = MnemosyneState(
            coordinates, mixture, log_step, tokens, recall, trace, state.scale
        )
        return without_decay(update), next_state

    def _encode(
        self,
        theta: Theta,
        prepared: Prepared,
        layout: Layout,
        state: MnemosyneState,
        grad: jax.Array,
        written: memory.CoordinateMemory,
        trace: conditions.LossTrace,
        inputs: StepInputs,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the tokens of cells [C, K, w] and of chunks [C, token_width]."""
        knobs = theta.fixed["knobs"]
        counts, mask = jnp.asarray(layout.chunk_counts), jnp.asarray(layout.mask)
        cell_mask = jnp.asarray(layout.cell_mask)
        previous = memory.direction(state.coordinates, state.mixture, counts, knobs["epsilon"])
        cell_sums = features.cell_sums(grad, state.coordinates, written, previous, mask)
        chunk_sums = features.chunk_sums(cell_sums)
        cell_features = features.cell_features(cell_sums, chunk_sums)
        spatial = _part(theta, "spatial")
        cells = self.spatial.encode_cells(
            spatial, knobs, prepared.positions, cell_features, cell_mask
        )

        shared = conditions.shared_features(trace, inputs, written.mass_square)
        own = features.statistics(chunk_sums)
        own.append(_against_tensor(layout, state.coordinates.square))
        own.append(0.25 * state.log_step)
        chunk_features = jnp.concatenate(
            [
                jnp.stack(own, axis=-1),
                jnp.asarray(conditions.tensor_features(layout)),
                jnp.broadcast_to(shared, (layout.num_chunks, shared.shape[0])),
                state.scale,
            ],
            axis=-1,
        )
        return cells, self.spatial.pool(spatial, cells, chunk_features, cell_mask)

    def _bounded_direction(
        self,
        coordinates: memory.CoordinateMemory,
        mixture: memory.Mixture,
        log_gain: jax.Array,
        counts: jax.Array,
        knobs: Tree,
    ) -> jax.Array:
        """Returns the direction, over its rms where that is above the floor, [C, K, E].

        A prior of 32 coordinates of rms 0.3 keeps scalars and biases from sign descent.
        """
        read = memory.direction(coordinates, mixture, counts, knobs["epsilon"])
        read = read * jnp.exp(log_gain)[..., None]
        total = jnp.sum(read * read, axis=(1, 2))
        rms = jnp.sqrt((total + _PRIOR_COUNT * _PRIOR_SQUARE) / (counts + _PRIOR_COUNT))
        bounded = jnp.maximum(rms, knobs["gain_floor"])
        return read * jnp.exp(-knobs["gate_gain"] * jnp.log(bounded))[:, None, None]


def _part(theta: Theta, name: str) -> Theta:
    """Returns the weights of one part."""
    return Theta(theta.learned[name], theta.fixed.get(name, {}))


def _approach(current: jax.Array, target: jax.Array, knobs: Tree) -> jax.Array:
    """Moves the log step size toward its target; its rise is limited, its fall is not."""
    change = knobs["eta_smoothing"] * (target - current)
    return current + jnp.minimum(change, knobs["eta_rise"])


def _against_tensor(layout: Layout, square: jax.Array) -> jax.Array:
    """Log ratio of a chunk's mean square to its tensor's, before this step, [C]."""
    counts = jnp.asarray(layout.chunk_counts)
    membership = jnp.asarray(layout.membership)
    sums = jnp.sum(square, axis=(1, 2))
    tensor = (membership @ sums) / (membership @ counts)
    return features.log_ratio(sums, counts * (membership.T @ tensor))
