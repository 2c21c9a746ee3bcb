"""What an optimizer is to the programs that train, judge and export it.

An optimizer is a frozen configuration with pure functions. Its weights are a `Theta`: what
meta-training changes, and what is drawn once and then only saved. The memory of one training run
is a state, a pytree of arrays that the optimizer alone understands.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.layout import Layout, Params

Tree = dict[str, Any]
State = Any


class Theta(NamedTuple):
    """Weights of a learned optimizer.

    Attributes:
        learned: Arrays that meta-training changes.
        fixed: Arrays that are part of the weights and never change: projections, frequencies and
            the numbers of the configuration that enter the arithmetic.
    """

    learned: Tree
    fixed: Tree


class StepInputs(NamedTuple):
    """What a caller may tell the optimizer at a step, each with a flag 1 (told) or 0 (not told).

    Attributes:
        loss: The training loss of this step, a scalar.
        has_loss: Whether `loss` is told.
        progress: Step over horizon, in [0, 1], a scalar.
        has_progress: Whether `progress` is told.
    """

    loss: jax.Array
    has_loss: jax.Array
    progress: jax.Array
    has_progress: jax.Array

    @classmethod
    def untold(cls) -> StepInputs:
        """Inputs of a caller that tells nothing."""
        zero = jnp.zeros(())
        return cls(zero, zero, zero, zero)


class Updates(NamedTuple):
    """What a step does to the parameters: p <- keep p + delta.

    Attributes:
        delta: What is added, shaped like the parameters.
        keep: What each tensor is multiplied with first, scalars in [0, 1]; 1 is no weight decay.
            The daemon never holds parameters: this factor is the client's to apply.
    """

    delta: Params
    keep: Params


def without_decay(delta: Params) -> Updates:
    """Updates that decay nothing."""
    return Updates(delta, {name: jnp.ones(()) for name in delta})


def apply_updates(params: Params, updates: Updates) -> Params:
    """Returns the parameters after a step."""
    return {
        name: updates.keep[name] * value + updates.delta[name] for name, value in params.items()
    }


class Optimizer(Protocol):
    """The seam between update rules and the programs that use them."""

    @property
    def name(self) -> str:
        """Name in configurations and exports."""
        ...

    def init_theta(self, key: jax.Array) -> Theta:
        """Draws weights."""
        ...

    def prepare(self, theta: Theta, layout: Layout) -> Any:
        """Computes what depends on weights and layout alone, once for many steps."""
        ...

    def init(self, layout: Layout, params: Params | None = None) -> State:
        """Returns the state before the first step; `params` are told or not."""
        ...

    def update(
        self,
        theta: Theta,
        prepared: Any,
        layout: Layout,
        state: State,
        grads: Params,
        inputs: StepInputs,
    ) -> tuple[Updates, State]:
        """Returns what is to be done to the parameters, and the next state."""
        ...
