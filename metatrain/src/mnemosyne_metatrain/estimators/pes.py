"""PES: persistent evolution strategies, unbiased over the whole horizon at a window's cost.

Two copies of a task live on from window to window, and see the same data. In window i they run
with theta + e_i and theta - e_i, e_i ~ N(0, sigma^2 I). With xi_i = e_1 + ... + e_i since the task
began,

    G_i = xi_i (L_i(+) - L_i(-)) / (2 sigma^2)

The sum of G_i over a task's windows is an unbiased estimate of the gradient of the sum of all
L_i, smoothed over the perturbations (an error of order sigma^2): e_j in xi_i credits window j's
theta with what it does to a later loss. The variance grows with the number of windows. Only forward
passes are needed.

Source: arXiv 2112.13835, the section on persistent evolution strategies, with antithetic pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.estimators.problem import Data, Estimate, InnerProblem, State, Theta


class PesState(NamedTuple):
    """What a pair carries on.

    Attributes:
        pair: States of the two copies, leaves [2, ...].
        accumulated: xi, shaped like theta.
    """

    pair: State
    accumulated: Theta


def init_pes(state: State, theta: Theta) -> PesState:
    """Starts a pair, both copies from a task's first state."""
    pair = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    return PesState(pair, jax.tree.map(jnp.zeros_like, theta))


def reset_pes(is_done: jax.Array, fresh: State, state: PesState) -> PesState:
    """Starts the pair anew from `fresh` where `is_done`, a boolean scalar.

    Call it between windows, so that no window has losses of two tasks.
    """
    start = init_pes(fresh, state.accumulated)
    chosen: PesState = jax.tree.map(lambda a, b: jnp.where(is_done, a, b), start, state)
    return chosen


def pes_gradient(
    problem: InnerProblem,
    theta: Theta,
    state: PesState,
    data: Data,
    key: jax.Array,
    sigma: float = 0.01,
    sizes: Theta | None = None,
) -> Estimate:
    """Runs a window with both copies.

    Args:
        problem: The inner problem; its values alone matter.
        theta: What is meta-trained.
        state: The pair.
        data: What the window consumes; the copies share it.
        key: Of this window's perturbation.
        sigma: Standard deviation of the perturbation.
        sizes: That of each number, `sigma` or 0, shaped like theta; `sigma` everywhere by default.

    Returns:
        An estimate whose loss is the mean of the two, whose state is the next `PesState`, and
        whose aux has leaves [2, ...].
    """
    leaves, structure = jax.tree.flatten(theta)
    keys = jax.random.split(key, len(leaves))
    noise = jax.tree.unflatten(
        structure,
        [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)],
    )
    if sizes is None:
        noise = jax.tree.map(lambda e: sigma * e, noise)
    else:
        noise = jax.tree.map(jnp.multiply, sizes, noise)
    thetas = jax.tree.map(lambda x, e: jnp.stack([x + e, x - e]), theta, noise)
    run = jax.vmap(problem.first_order, in_axes=(0, 0, None))
    losses, (pair, aux) = run(thetas, state.pair, data)
    accumulated = jax.tree.map(jnp.add, state.accumulated, noise)
    slope = (losses[0] - losses[1]) / (2.0 * sigma**2)
    gradient = jax.tree.map(lambda xi: slope.astype(xi.dtype) * xi, accumulated)
    return Estimate(gradient, jnp.mean(losses), PesState(pair, accumulated), aux)
