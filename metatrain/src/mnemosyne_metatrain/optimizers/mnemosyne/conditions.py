"""What a chunk is told besides its gradients: its tensor, the clock, and the caller's inputs."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.layout import Layout
from mnemosyne_metatrain.optimizers.base import StepInputs, Tree

NUM_TENSOR_FEATURES = 4
NUM_CLOCK_FEATURES = 2
NUM_LOSS_FEATURES = 4
NUM_PROGRESS_FEATURES = 2
NUM_SCALE_FEATURES = 2
NUM_CONDITIONS = (
    NUM_TENSOR_FEATURES
    + NUM_CLOCK_FEATURES
    + NUM_LOSS_FEATURES
    + NUM_PROGRESS_FEATURES
    + NUM_SCALE_FEATURES
)

_LOSS_DECAYS = (0.8, 0.97, 0.997)
_LOSS_FLOOR = 1e-8


class LossTrace(NamedTuple):
    """Means of the log loss over three spans [3], and how much of each span has been seen [3]."""

    sums: jax.Array
    mass: jax.Array


def empty_trace() -> LossTrace:
    """Returns a trace of no loss."""
    return LossTrace(jnp.zeros(3), jnp.zeros(3))


def update_trace(trace: LossTrace, inputs: StepInputs) -> LossTrace:
    """Adds the loss of this step, if it is told and finite."""
    decays = jnp.asarray(_LOSS_DECAYS)
    told = inputs.has_loss * jnp.isfinite(inputs.loss)
    # Before the logarithm a loss that is not told is replaced, because 0 times NaN is NaN.
    loss = jnp.where(told > 0, jnp.maximum(inputs.loss, _LOSS_FLOOR), 1.0)
    keep = jnp.where(told > 0, decays, 1.0)
    return LossTrace(
        keep * trace.sums + told * (1 - decays) * jnp.log(loss),
        keep * trace.mass + told * (1 - decays),
    )


def trace_means(trace: LossTrace) -> jax.Array:
    """Mean log losses over the three spans, [3]; 0 where nothing was told."""
    seen = trace.mass > 0
    return jnp.where(seen, trace.sums / jnp.where(seen, trace.mass, 1.0), 0.0)


def tensor_features(layout: Layout) -> NDArray[np.float32]:
    """What is known of each chunk's tensor from its shape, [C, 4]."""
    rows = [
        (
            0.25 * math.log(spec.fan_in),
            0.25 * math.log(spec.fan_out),
            0.1 * math.log(spec.size),
            float(len(spec.shape) > 1),
        )
        for spec in layout.specs
    ]
    return np.asarray(rows, np.float32)[layout.tensor_of_chunk]


def prior_step(layout: Layout, knobs: Tree) -> jax.Array:
    """Step size of each chunk at a zero decoder, [C]: the width prior.

    A matrix of fan-in n has eta_matrix (64 / n)^width_exponent; other tensors have eta_vector.
    """
    is_matrix = jnp.asarray(layout.per_chunk([float(s.fan_in > 1) for s in layout.specs]))
    log_width = jnp.asarray(layout.per_chunk([math.log(s.fan_in / 64.0) for s in layout.specs]))
    matrix = knobs["eta_matrix"] * jnp.exp(-knobs["width_exponent"] * log_width)
    prior: jax.Array = is_matrix * matrix + (1.0 - is_matrix) * knobs["eta_vector"]
    return prior


def scale_features(layout: Layout, params: dict[str, jax.Array] | None) -> jax.Array:
    """The rms of each tensor at the start over 1/sqrt(fan-in), if told, [C, 2]."""
    if params is None:
        return jnp.zeros((layout.num_chunks, NUM_SCALE_FEATURES))
    values = []
    for spec in layout.specs:
        square = jnp.mean(jnp.square(params[spec.name])) * spec.fan_in
        known = square > 0
        log_rms = 0.5 * jnp.log(jnp.where(known, square, 1.0))
        values.append(jnp.stack([0.5 * jnp.clip(log_rms, -4.0, 4.0), known.astype(jnp.float32)]))
    return jnp.stack(values)[layout.tensor_of_chunk]


def scale_limit(layout: Layout, scale: jax.Array) -> jax.Array:
    """What the guard's cap is relative to: max(rms at the start, 1/sqrt(fan-in)), [C].

    Args:
        layout: Of the net.
        scale: From `scale_features`; an rms beyond its clipping counts as clipped.
    """
    base = jnp.asarray(layout.per_chunk([spec.fan_in**-0.5 for spec in layout.specs]))
    return base * jnp.exp(jnp.maximum(2.0 * scale[:, 0], 0.0))


def shared_features(trace: LossTrace, inputs: StepInputs, age: jax.Array) -> jax.Array:
    """Clock, loss and progress, the same for all chunks, [8]."""
    means = trace_means(trace)
    told = inputs.has_loss * jnp.isfinite(inputs.loss)
    loss = jnp.where(told > 0, jnp.log(jnp.maximum(inputs.loss, _LOSS_FLOOR)), means[0])
    features = [
        0.15 * jnp.log(age),
        jnp.exp(-0.1 * (age - 1.0)),
        told * jnp.clip(loss - means[0], -2.0, 2.0),
        told * jnp.clip(means[0] - means[1], -2.0, 2.0),
        told * jnp.clip(means[1] - means[2], -2.0, 2.0),
        told,
        inputs.has_progress * (1.0 - inputs.progress),
        inputs.has_progress,
    ]
    return jnp.stack(features)
