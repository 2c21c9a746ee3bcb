"""Truncated backpropagation through a window, with and without second derivatives.

    exact:        d L_window(theta, state) / d theta, the state at the start being constant
    first order:  the same with d g / d state = 0 for the gradients g of the inner task

Truncation ignores how theta shaped the state at the window's start: it is biased toward short
horizons, and has no variance but the data's. The first-order form is biased even for one window
over the whole horizon; it costs one gradient of the net a step and no second derivatives.

Sources: arXiv 1606.04474 (learning to learn by gradient descent, which drops second derivatives);
arXiv 2111.05803 (why long unrolls explode).
"""

from __future__ import annotations

import jax

from mnemosyne_metatrain.estimators.problem import (
    Data,
    Estimate,
    InnerProblem,
    State,
    Theta,
    Window,
)


def window_gradient(window: Window, theta: Theta, state: State, data: Data) -> Estimate:
    """Differentiates one version of a window in theta."""
    state = jax.lax.stop_gradient(state)
    differentiate = jax.value_and_grad(window, has_aux=True)
    (loss, (next_state, aux)), gradient = differentiate(theta, state, data)
    return Estimate(gradient, loss, next_state, aux)


def first_order_gradient(problem: InnerProblem, theta: Theta, state: State, data: Data) -> Estimate:
    """First-order truncated meta-gradient: gradients of the inner task are constants."""
    return window_gradient(problem.first_order, theta, state, data)


def truncated_gradient(problem: InnerProblem, theta: Theta, state: State, data: Data) -> Estimate:
    """Full truncated backpropagation through time, with second derivatives."""
    return window_gradient(problem.exact, theta, state, data)
