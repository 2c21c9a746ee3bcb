"""The numbers of a recipe that variants may differ in within one compiled program."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp


class RecipeArrays(NamedTuple):
    """A recipe as scalars; see `Recipe`."""

    learning_rate: jax.Array
    task_clip: jax.Array
    floor: jax.Array
    mean_weight: jax.Array
    spike_weight: jax.Array
    spike_margin: jax.Array
    last_weight: jax.Array
    first_weight: jax.Array
    validation_share: jax.Array
    average_point: jax.Array


@dataclass(frozen=True)
class Recipe:
    """Loss form and outer step size.

    With l the loss of a step, l0 the task's first loss and b the least smoothed loss so far, a step
    of a window costs log(l + floor l0) + mean_weight l / l0 + spike_weight relu(log(l / b) -
    spike_margin).

    Attributes:
        learning_rate: Of the outer Adam.
        task_clip: Most that the norm of one task's meta-gradient may be.
        floor: Losses below this share of the first one count little.
        mean_weight: Weight of the loss itself.
        spike_weight: Weight of the penalty on spikes.
        spike_margin: Log of the rise that is not yet a spike.
        last_weight: Weight of the last ten steps of a task's last window.
        first_weight: Weight of a task's first window; the others have weight 1.
        validation_share: Share of the held-out batch in l; the rest is the training batch.
        average_point: Where the held-out batch is read: 0 at the parameters, 1 at their running
            mean. At the mean a small step size is not rewarded for the noise that it hides.
    """

    learning_rate: float = 1e-3
    task_clip: float = 1.0
    floor: float = 0.01
    mean_weight: float = 1.0
    spike_weight: float = 2.0
    spike_margin: float = 0.7
    last_weight: float = 0.5
    first_weight: float = 2.0
    validation_share: float = 0.5
    average_point: float = 0.0

    def arrays(self) -> RecipeArrays:
        """Returns the recipe as scalars."""
        values = {name: jnp.asarray(value, jnp.float32) for name, value in asdict(self).items()}
        return RecipeArrays(**values)
