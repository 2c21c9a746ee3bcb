"""Whole runs of one task under several policies, whose decisions are pushed phase by phase."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.config import TeachingConfig
from mnemosyne_metatrain.layout import Layout
from mnemosyne_metatrain.optimizers.base import StepInputs, Theta, apply_updates
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne
from mnemosyne_metatrain.tasks.base import Data, TaskFamily
from mnemosyne_metatrain.training.teaching.scaffold import Policy, read_features, with_policy

_HELD_OUT_BATCHES = 8
_WORST = 3.0


def phase_of_segment(plan: TeachingConfig) -> NDArray[np.int64]:
    """The phase that each segment of a run belongs to, [segments]."""
    starts = np.asarray((0, *plan.phase_starts))
    return np.searchsorted(starts, np.arange(plan.segments), side="right") - 1


@dataclass(frozen=True)
class PushedRuns:
    """Runs on one family.

    A run that is not told its horizon costs the mean over the horizons H of

        log((L_H + floor l_0) / l_0),   L_H the held-out loss after H, l_0 the first

    and one that is told costs that of its own horizon. The mean training loss up to there is added
    with a weight.

    Attributes:
        theta: Weights from `scaffold`.
        optimizer: The flagship.
        family: The tasks.
        layout: Of the family's nets.
        plan: Numbers.
    """

    theta: Theta
    optimizer: Mnemosyne
    family: TaskFamily
    layout: Layout
    plan: TeachingConfig

    def __call__(
        self, policies: Policy, pushes: jax.Array, key: jax.Array, data: Data
    ) -> tuple[jax.Array, jax.Array]:
        """Runs a task that is drawn by a key, once for each policy.

        Args:
            policies: Leaves have a leading axis [M, ...].
            pushes: What is added to each policy's outputs in each phase, [M, phases, 6].
            key: Of the task and its batches, the same for all policies.
            data: Of the family.

        Returns:
            Costs [M], and what the first policy's last map read after each segment,
            [segments, chunks, hidden].
        """
        keys = jax.random.split(key, 7)
        plan, family = self.plan, self.family
        drawn = family.draw(keys[0])
        params = family.init(keys[1], drawn)
        has_loss = (jax.random.uniform(keys[2]) < plan.loss_share).astype(jnp.float32)
        has_progress = jax.random.uniform(keys[3]) < plan.horizon_share
        choice = jax.random.randint(keys[4], (), 0, len(plan.horizons))
        horizon = jnp.asarray(plan.horizons)[choice]
        held_out = jax.vmap(lambda k: family.batch(k, drawn, data, "validation"))(
            jax.random.split(keys[5], _HELD_OUT_BATCHES)
        )
        prepared = self.optimizer.prepare(self.theta, self.layout)
        phases = jnp.asarray(phase_of_segment(plan))

        def run(policy: Policy, push: jax.Array) -> tuple[jax.Array, jax.Array]:
            def take_step(theta: Theta, carry: Any, step: jax.Array) -> tuple[Any, jax.Array]:
                state, params = carry
                batch = family.batch(jax.random.fold_in(keys[6], step), drawn, data, "train")
                loss, grads = jax.value_and_grad(family.loss)(params, batch, drawn)
                told = has_progress.astype(jnp.float32)
                progress = told * jnp.minimum((step + 1) / (horizon * plan.segment), 1.0)
                inputs = StepInputs(loss, has_loss, progress, told)
                updates, state = self.optimizer.update(
                    theta, prepared, self.layout, state, grads, inputs
                )
                return (state, apply_updates(params, updates)), loss

            def take_segment(carry: Any, index: jax.Array) -> tuple[Any, tuple[jax.Array, ...]]:
                theta = with_policy(self.theta, policy, push[phases[index]])
                steps = index * plan.segment + jnp.arange(plan.segment)
                carry, losses = jax.lax.scan(partial(take_step, theta), carry, steps)
                held = jax.vmap(lambda b: family.loss(carry[1], b, drawn))(held_out)
                seen = read_features(self.optimizer, self.theta, self.layout, carry[0])
                return carry, (jnp.mean(held), jnp.mean(losses), seen)

            start = (self.optimizer.init(self.layout, params), params)
            _, (held, train, seen) = jax.lax.scan(take_segment, start, jnp.arange(plan.segments))
            return self._cost(held / first, train / first, has_progress, choice), seen

        first = jnp.mean(jax.vmap(lambda b: family.loss(params, b, drawn))(held_out))
        costs, seen = jax.vmap(run)(policies, pushes)
        return costs, seen[0]

    def _cost(
        self, held: jax.Array, train: jax.Array, has_progress: jax.Array, choice: jax.Array
    ) -> jax.Array:
        """The cost of a run from its relative losses [segments]."""
        plan = self.plan
        horizons = jnp.asarray(plan.horizons)
        end = jnp.log(held + plan.floor)[horizons - 1]
        end = jnp.where(jnp.isfinite(end), jnp.minimum(end, _WORST), _WORST)
        train = jnp.where(jnp.isfinite(train), jnp.minimum(train, _WORST), _WORST)
        mean = jnp.cumsum(train)[horizons - 1] / horizons
        each = end + plan.mean_weight * mean
        return jnp.where(has_progress, each[choice], jnp.mean(each))
