"""What a whole run of training costs: its held-out loss at every stage, as if each were the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.layout import Layout
from mnemosyne_metatrain.optimizers.base import Optimizer, StepInputs, Theta, apply_updates
from mnemosyne_metatrain.tasks.base import Data, TaskFamily

_HELD_OUT_BATCHES = 8
_WORST = 3.0


@dataclass(frozen=True)
class RunCost:
    """The cost of runs on one family.

    With L_k the held-out loss after segment k of n, l_k the mean training loss of that segment and
    l_0 the loss at the start, a run costs

        sum_k (1/k) log((L_k + floor l_0) / l_0) / sum_k (1/k) + mean_weight mean_k l_k / l_0

    The weights 1/k make every doubling of the horizon count alike: nobody tells the horizon.

    Attributes:
        optimizer: The learned optimizer.
        family: The tasks.
        layout: Of the family's nets.
        segments: n.
        segment: Steps of a segment.
        floor: Losses below this share of the first one count little.
        mean_weight: Weight of the mean training loss.
        told_share: Share of tasks that tell their loss to the optimizer.
    """

    optimizer: Optimizer
    family: TaskFamily
    layout: Layout
    segments: int
    segment: int
    floor: float
    mean_weight: float
    told_share: float

    def __call__(self, theta: Theta, key: jax.Array, data: Data) -> jax.Array:
        """Runs a task that is drawn by a key, and returns its cost, a scalar."""
        keys = jax.random.split(key, 5)
        drawn = self.family.draw(keys[0])
        params = self.family.init(keys[1], drawn)
        told = (jax.random.uniform(keys[2]) < self.told_share).astype(jnp.float32)
        held_out = jax.vmap(lambda k: self.family.batch(k, drawn, data, "validation"))(
            jax.random.split(keys[3], _HELD_OUT_BATCHES)
        )
        prepared = self.optimizer.prepare(theta, self.layout)
        zero = jnp.zeros(())

        def take_step(carry: Any, step: jax.Array) -> tuple[Any, jax.Array]:
            state, params = carry
            batch = self.family.batch(jax.random.fold_in(keys[4], step), drawn, data, "train")
            loss, grads = jax.value_and_grad(self.family.loss)(params, batch, drawn)
            inputs = StepInputs(loss, told, zero, zero)
            updates, state = self.optimizer.update(
                theta, prepared, self.layout, state, grads, inputs
            )
            return (state, apply_updates(params, updates)), loss

        def take_segment(carry: Any, index: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            steps = index * self.segment + jnp.arange(self.segment)
            carry, losses = jax.lax.scan(take_step, carry, steps)
            held = jax.vmap(lambda b: self.family.loss(carry[1], b, drawn))(held_out)
            return carry, (jnp.mean(held), jnp.mean(losses))

        first = jnp.mean(jax.vmap(lambda b: self.family.loss(params, b, drawn))(held_out))
        start = (self.optimizer.init(self.layout, params), params)
        _, (held, train) = jax.lax.scan(take_segment, start, jnp.arange(self.segments))
        weights = 1.0 / jnp.arange(1, self.segments + 1)
        end = jnp.log(held / first + self.floor)
        end = jnp.where(jnp.isfinite(end), jnp.minimum(end, _WORST), _WORST)
        mean = jnp.where(jnp.isfinite(train), jnp.minimum(train / first, _WORST), _WORST)
        return jnp.sum(weights * end) / jnp.sum(weights) + self.mean_weight * jnp.mean(mean)
