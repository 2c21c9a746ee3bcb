"""The guard: bounds an update, and steps back to Adam while the loss is far above its best.

Cap: the rms of a chunk's update is at most cap max(rms of its tensor at the start, 1/sqrt(fan-in)).
Trip wire: with the mean log loss over the last few steps m and the least mean over some thirty
steps b, the guard trips when m - b > margin or a loss is not finite. While it is tripped, and until
m - b < release, the update is Adam's, at a share of the step size; then it fades back. A loss that
is not told cannot trip it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.optimizers.base import StepInputs, Tree
from mnemosyne_metatrain.optimizers.mnemosyne.conditions import LossTrace, trace_means

_NO_BEST = 1e30
_LEAST_LEVEL = 0.01


class GuardState(NamedTuple):
    """State of the guard; scalars.

    Attributes:
        level: Share of Adam in the update, in [0, 1].
        best: Least mean log loss so far.
        trips: How often the trip wire was crossed.
        capped: How many chunks' updates were capped, over all steps.
    """

    level: jax.Array
    best: jax.Array
    trips: jax.Array
    capped: jax.Array


def open_guard() -> GuardState:
    """Returns the guard before the first step."""
    zero = jnp.zeros(())
    return GuardState(zero, zero + _NO_BEST, zero, zero)


def watch(state: GuardState, trace: LossTrace, inputs: StepInputs, knobs: Tree) -> GuardState:
    """Takes in the loss of this step, which `trace` already holds."""
    means = trace_means(trace)
    told = inputs.has_loss > 0
    broken = told & ~jnp.isfinite(inputs.loss)
    known = told & (trace.mass[0] > 0)
    best = jnp.where(known, jnp.minimum(state.best, means[1]), state.best)
    rise = jnp.where(known, means[0] - best, 0.0)
    tripped = broken | (rise > knobs["guard_margin"])
    held = (state.level > 0) & (rise > knobs["guard_release"])
    faded = knobs["guard_recovery"] * state.level
    faded = jnp.where(faded < _LEAST_LEVEL, 0.0, faded)
    level = knobs["gate_guard"] * jnp.where(tripped | held, 1.0, faded)
    trips = state.trips + (tripped & (state.level == 0) & (level > 0)).astype(jnp.float32)
    return GuardState(level, best, trips, state.capped)


def bound(
    state: GuardState, update: jax.Array, limit: jax.Array, counts: jax.Array, knobs: Tree
) -> tuple[jax.Array, GuardState]:
    """Caps the update's rms in every chunk.

    Args:
        state: The guard.
        update: [C, K, E].
        limit: Most rms of each chunk before the cap's factor, [C].
        counts: Real coordinates of each chunk, [C].
        knobs: Of the optimizer.
    """
    mean = jnp.sum(update * update, axis=(1, 2)) / counts
    # The derivative of a root at 0 is not finite: a chunk without gradients has no update.
    rms = jnp.where(mean > 0, jnp.sqrt(jnp.where(mean > 0, mean, 1.0)), 0.0)
    most = knobs["guard_cap"] * limit
    over = (rms > most) & (knobs["gate_guard"] > 0)
    factor = jnp.where(over, most / jnp.where(over, rms, 1.0), 1.0)
    capped = state.capped + jnp.sum(over.astype(jnp.float32))
    return factor[:, None, None] * update, state._replace(capped=capped)
