"""The flagship, put together: two memories, one idea.

A step: write the gradient to the moments; take statistics of cells and chunks; level 1 over cells;
pooled chunk tokens; memory in time; context from the tokens of the step before; decode; write the
direction to the slow memory; read both; step. The decay of weights that a step decides on is
applied in the next one, so that an update never waits for all of its tensor.
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
)
from mnemosyne_metatrain.optimizers.mnemosyne import conditions, features, guard, memory
from mnemosyne_metatrain.optimizers.mnemosyne.config import MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.context import ContextEncoder
from mnemosyne_metatrain.optimizers.mnemosyne.decoder import Decoder
from mnemosyne_metatrain.optimizers.mnemosyne.spatial import Positions, SpatialEncoder
from mnemosyne_metatrain.optimizers.mnemosyne.temporal import Recall, TemporalEncoder

_GRADIENT_LIMIT = 1e18
_SHRINK_LIMIT = 0.1

# Statistics of the chunk, its mean square against the tensor's, its log step size.
_CHUNK_INPUTS = features.NUM_CHUNK_STATISTICS + 2 + conditions.NUM_CONDITIONS


class MnemosyneState(NamedTuple):
    """State of a training run.

    Attributes:
        coordinates: Memories of coordinates.
        mixture: How the step before read them, from which its direction is recomputed.
        log_step: Log step size of each chunk over its prior, [C].
        shrink: What the next step takes off each tensor's parameters, as a share of them, [T].
        tokens: Chunk tokens of the step before, [C, token_width].
        recall: The memory in time of each chunk.
        trace: Means of the loss.
        guard: The guard.
        scale: Features of the parameters' scale at the start, [C, 2].
    """

    coordinates: memory.CoordinateMemory
    mixture: memory.Mixture
    log_step: jax.Array
    shrink: jax.Array
    tokens: jax.Array
    recall: Recall
    trace: conditions.LossTrace
    guard: guard.GuardState
    scale: jax.Array


class Prepared(NamedTuple):
    """What depends on weights and layout alone.

    Attributes:
        positions: Positions of cells.
        prior_step: Prior step sizes, [C].
        membership: Share of each chunk in its tensor, [T, C]; 0 for tensors that do not decay.
    """

    positions: Positions
    prior_step: jax.Array
    membership: jax.Array


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
        is_matrix = jnp.asarray([float(spec.fan_in > 1) for spec in layout.specs])
        members = jnp.asarray(layout.membership)
        shares = is_matrix[:, None] * members / jnp.sum(members, axis=1, keepdims=True)
        return Prepared(positions, conditions.prior_step(layout, theta.fixed["knobs"]), shares)

    def init(self, layout: Layout, params: Params | None = None) -> MnemosyneState:
        """Returns empty memories."""
        chunks = layout.num_chunks
        return MnemosyneState(
            coordinates=memory.empty_memory((chunks, layout.num_cells, layout.cell_size)),
            mixture=memory.Mixture(*(jnp.zeros(chunks) for _ in range(3))),
            log_step=jnp.zeros(chunks),
            shrink=jnp.zeros(len(layout.specs)),
            tokens=jnp.zeros((chunks, self.config.token_width)),
            recall=self.temporal.empty(chunks),
            trace=conditions.empty_trace(),
            guard=guard.open_guard(),
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
        written = memory.write_moments(
            state.coordinates, grad, c.decay_fast, c.decay_square, knobs["age_limit"]
        )
        inverse = memory.inverse_root(written, state.coordinates.square, counts, knobs["epsilon"])
        trace = conditions.update_trace(state.trace, inputs)

        cells, tokens = self._encode(
            theta, prepared, layout, state, grad, written, inverse, trace, inputs
        )
        recalled, recall = self.temporal.step(_part(theta, "temporal"), state.recall, tokens)
        source = tokens if c.same_step_context else state.tokens
        context = self.context.encode(_part(theta, "context"), knobs, layout, source)
        joined = jnp.concatenate([tokens, knobs["gate_cam"] * recalled, context], axis=-1)
        decision = self.decoder.decide(theta.learned["decoder"], knobs, joined, cells)

        sharp = memory.sharp_direction(grad, inverse, knobs["write_limit"], counts)
        coordinates = memory.write_slow(written, sharp, decision.growth)
        mixture = memory.Mixture(
            *(
                old + knobs["smoothing"] * (new - old)
                for old, new in zip(state.mixture, decision.mixture, strict=True)
            )
        )
        log_step = _approach(state.log_step, decision.log_step, knobs)
        weights = _weights(mixture, coordinates.age, knobs)
        warm = coordinates.age / (coordinates.age + knobs["warmup"])
        step = prepared.prior_step * warm * jnp.exp(log_step)
        gain = jnp.exp(decision.log_gain)[..., None]
        read = memory.direction(coordinates, inverse, weights, sharp) * gain

        watched = guard.watch(state.guard, trace, inputs, knobs)
        shadow = knobs["guard_share"] * (coordinates.fast * inverse)
        blend = read + watched.level * (shadow - read)
        limit = conditions.scale_limit(layout, state.scale)
        bounded, watched = guard.bound(watched, -step[:, None, None] * blend, limit, counts, knobs)
        delta = layout.unpack(bounded)
        total = weights.sharp + weights.fast + weights.slow
        shrink = prepared.membership @ (decision.decay * step * total)
        next_state = MnemosyneState(
            coordinates,
            mixture,
            log_step,
            jnp.minimum(shrink, _SHRINK_LIMIT),
            tokens,
            recall,
            trace,
            watched,
            state.scale,
        )
        keep = {spec.name: 1.0 - state.shrink[i] for i, spec in enumerate(layout.specs)}
        return Updates(delta, keep), next_state

    def _encode(
        self,
        theta: Theta,
        prepared: Prepared,
        layout: Layout,
        state: MnemosyneState,
        grad: jax.Array,
        written: memory.CoordinateMemory,
        inverse: jax.Array,
        trace: conditions.LossTrace,
        inputs: StepInputs,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the tokens of cells [C, K, w] and of chunks [C, token_width]."""
        knobs = theta.fixed["knobs"]
        mask, cell_mask = jnp.asarray(layout.mask), jnp.asarray(layout.cell_mask)
        weights = _weights(state.mixture, written.age, knobs)
        previous = memory.direction(state.coordinates, inverse, weights)
        cell_sums = features.cell_sums(grad, state.coordinates, written, inverse, previous, mask)
        chunk_sums = features.chunk_sums(cell_sums)
        cell_features = features.cell_features(cell_sums, chunk_sums)
        spatial = _part(theta, "spatial")
        cells = self.spatial.encode_cells(
            spatial, knobs, prepared.positions, cell_features, cell_mask
        )

        shared = conditions.shared_features(trace, inputs, written.age)
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


def _part(theta: Theta, name: str) -> Theta:
    """Returns the weights of one part."""
    return Theta(theta.learned[name], theta.fixed.get(name, {}))


def _weights(mixture: memory.Mixture, age: jax.Array, knobs: Tree) -> memory.Weights:
    """Returns w0, w1 and w2; the first two fall with age."""
    fall = jnp.exp(-knobs["fast_power"] * jnp.log(jnp.maximum(age, 1.0)))
    return memory.Weights(
        knobs["sharp_weight"] * fall * jnp.exp(mixture.sharp),
        knobs["fast_weight"] * fall * jnp.exp(mixture.fast),
        knobs["slow_weight"] * jnp.exp(mixture.slow),
    )


def _approach(current: jax.Array, target: jax.Array, knobs: Tree) -> jax.Array:
    """Moves the log step size toward its target; its rise is limited, its fall is not."""
    change = knobs["smoothing"] * (target - current)
    return current + jnp.minimum(change, knobs["eta_rise"])


def _against_tensor(layout: Layout, square: jax.Array) -> jax.Array:
    """Log ratio of a chunk's mean square to its tensor's, before this step, [C]."""
    counts = jnp.asarray(layout.chunk_counts)
    membership = jnp.asarray(layout.membership)
    sums = jnp.sum(square, axis=(1, 2))
    tensor = (membership @ sums) / (membership @ counts)
    return features.log_ratio(sums, counts * (membership.T @ tensor))
