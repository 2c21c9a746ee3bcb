"""The inner problem as the estimators see it: a window of training whose loss depends on theta.

A window is a function (theta, state, data) -> (loss, (state, aux)):

* theta is the pytree that is meta-trained;
* state is all that a task carries from window to window (parameters, optimizer state, counters);
* data is what the window consumes: keys or batches, usually with a leading axis of steps;
* loss is the scalar that the window contributes to the meta-objective, which is the sum over all
  windows of a task; aux is anything to report.

Two versions of it have the same values and differ in their derivatives: in the first-order one,
the gradients of the inner task are constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

Theta: TypeAlias = Any
State: TypeAlias = Any
Data: TypeAlias = Any
Window: TypeAlias = Callable[[Theta, State, Data], tuple[jax.Array, tuple[State, Any]]]
Step: TypeAlias = Callable[[Theta, State, Data], tuple[State, jax.Array]]


@dataclass(frozen=True)
class InnerProblem:
    """A window in both versions.

    Attributes:
        first_order: Its derivative holds the gradients of the inner task constant.
        exact: Its derivative is the whole one, with second derivatives of the inner task.
    """

    first_order: Window
    exact: Window


class Estimate(NamedTuple):
    """What every estimator returns.

    Attributes:
        gradient: Estimate of the meta-gradient of the window's loss, shaped like theta.
        loss: The window's loss, a scalar.
        state: The state after the window, without derivatives.
        aux: What the window reported.
    """

    gradient: Theta
    loss: jax.Array
    state: State
    aux: Any


def unroll(step: Step, recompute: bool = False) -> Window:
    """Makes a window of a step (theta, state, data) -> (state, loss).

    Args:
        step: One step of inner training.
        recompute: Whether derivatives recompute each step from its state, which keeps only states
            in memory.

    Returns:
        A window whose data has a leading axis of steps [W, ...], whose loss is the mean over the
        steps, and whose aux are the losses [W].
    """
    inner = jax.checkpoint(step, prevent_cse=False) if recompute else step

    def window(theta: Theta, state: State, data: Data) -> tuple[jax.Array, tuple[State, Any]]:
        def body(state: State, item: Data) -> tuple[State, jax.Array]:
            return inner(theta, state, item)

        state, losses = jax.lax.scan(body, state, data)
        return jnp.mean(losses), (state, losses)

    return window


def problem_from_steps(
    first_order_step: Step, exact_step: Step, recompute: bool = False
) -> InnerProblem:
    """Makes a problem of two versions of a step that have the same values."""
    return InnerProblem(unroll(first_order_step, recompute), unroll(exact_step, recompute))


def problem_from_rule(
    loss_and_gradient: Callable[[State, Data], tuple[jax.Array, Any]],
    update: Callable[[Theta, State, Any, jax.Array, Data], State],
    recompute: bool = False,
) -> InnerProblem:
    """Makes a problem of an inner task and an update rule.

    Args:
        loss_and_gradient: Maps (state, data) to the loss before the update, and the gradient.
        update: Maps (theta, state, gradient, loss, data) to the next state.
        recompute: As for `unroll`.
    """

    def make_step(is_first_order: bool) -> Step:
        def step(theta: Theta, state: State, data: Data) -> tuple[State, jax.Array]:
            loss, gradient = loss_and_gradient(state, data)
            if is_first_order:
                gradient = jax.lax.stop_gradient(gradient)
            return update(theta, state, gradient, loss, data), loss

        return step

    return problem_from_steps(make_step(True), make_step(False), recompute)
