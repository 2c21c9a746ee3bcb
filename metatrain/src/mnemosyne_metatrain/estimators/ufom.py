"""UFOM: unbiased first-order meta-gradients by a randomized correction.

With xi ~ Bernoulli(q), and G_fo, G the first-order and exact gradients of a window,

    G_ufom = G_fo + (xi / q) (G - G_fo),   E G_ufom = G,
    E |G_ufom|^2 = E |G|^2 + (1/q - 1) E |G - G_fo|^2

so the exact gradient is computed in a share q of windows only. It is unbiased for the window:
what truncation ignores stays ignored.

The adaptive form picks q from running means A of |G|^2 and B of |G - G_fo|^2 over past windows, as
the minimizer of (expected cost) x (second moment): with cost c for G relative to G_fo,

    q* = sqrt(B / (c (A - B))) clipped to [q_min, 1], and 1 if A <= B

Since q depends on the past alone, the estimate stays unbiased.

Source: arXiv 2006.03631 (unbiased first-order bilevel optimization). The closed form of q is
derived here from the two lines above.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.estimators.problem import Data, Estimate, InnerProblem, State, Theta
from mnemosyne_metatrain.estimators.truncated import first_order_gradient, truncated_gradient


class UfomSquares(NamedTuple):
    """|G|^2 and |G - G_fo|^2 of a corrected window; zeros of one that is not."""

    exact: jax.Array
    gap: jax.Array


class UfomAverages(NamedTuple):
    """Running means of `UfomSquares` over corrected windows, and the mass that they divide by."""

    exact: jax.Array
    gap: jax.Array
    mass: jax.Array


def draw_correction(key: jax.Array, probability: jax.Array | float) -> jax.Array:
    """Draws xi, a boolean scalar, once for all tasks of an outer step."""
    return jax.random.bernoulli(key, probability)


def ufom_gradient(
    problem: InnerProblem,
    theta: Theta,
    state: State,
    data: Data,
    is_corrected: jax.Array,
    probability: jax.Array | float,
) -> tuple[Estimate, UfomSquares]:
    """Estimates a window's gradient without bias at the cost of the first-order one, mostly.

    Under `jax.vmap` over tasks, `is_corrected` stays unmapped (in_axes None): a mapped condition
    would run both branches.

    Args:
        problem: The inner problem.
        theta: What is meta-trained.
        state: The task's state at the start of the window.
        data: What the window consumes.
        is_corrected: xi, from `draw_correction`.
        probability: q, which xi was drawn with.
    """

    def plain(theta: Theta, state: State, data: Data) -> tuple[Estimate, UfomSquares]:
        estimate = first_order_gradient(problem, theta, state, data)
        zero = jnp.zeros_like(estimate.loss)
        return estimate, UfomSquares(zero, zero)

    def corrected(theta: Theta, state: State, data: Data) -> tuple[Estimate, UfomSquares]:
        estimate = first_order_gradient(problem, theta, state, data)
        exact = truncated_gradient(problem, theta, state, data).gradient
        gap = jax.tree.map(jnp.subtract, exact, estimate.gradient)
        gradient = jax.tree.map(lambda g, d: g + d / probability, estimate.gradient, gap)
        squares = UfomSquares(_square(exact, estimate.loss), _square(gap, estimate.loss))
        return estimate._replace(gradient=gradient), squares

    result: tuple[Estimate, UfomSquares] = jax.lax.cond(
        is_corrected, corrected, plain, theta, state, data
    )
    return result


def _square(tree: Theta, like: jax.Array) -> jax.Array:
    """Returns the sum of squares of all leaves, in the type of `like`."""
    total = jnp.zeros_like(like)
    for leaf in jax.tree.leaves(tree):
        total = total + jnp.sum(leaf * leaf).astype(like.dtype)
    return total


def init_averages() -> UfomAverages:
    """Returns averages over nothing."""
    zero = jnp.zeros(())
    return UfomAverages(zero, zero, zero)


def update_averages(
    averages: UfomAverages, squares: UfomSquares, is_corrected: jax.Array, decay: float = 0.95
) -> UfomAverages:
    """Takes in a window's squares (their mean over tasks) if it was corrected and is finite."""
    is_good = is_corrected & jnp.isfinite(squares.exact) & jnp.isfinite(squares.gap)

    def blend(old: jax.Array, new: jax.Array | float) -> jax.Array:
        return jnp.where(is_good, decay * old + (1.0 - decay) * new, old)

    return UfomAverages(
        blend(averages.exact, squares.exact),
        blend(averages.gap, squares.gap),
        blend(averages.mass, 1.0),
    )


def adaptive_probability(
    averages: UfomAverages, relative_cost: float, minimum: float = 0.05
) -> jax.Array:
    """Returns the adaptive q, a scalar; 1 until a corrected window was seen.

    Args:
        averages: From `update_averages`.
        relative_cost: c, the time of an exact gradient over that of a first-order one.
        minimum: q_min, which bounds the weight 1/q of a correction.
    """
    rest = averages.exact - averages.gap
    is_known = (averages.mass > 0) & (rest > 0)
    best = jnp.sqrt(averages.gap / (relative_cost * jnp.where(is_known, rest, 1.0)))
    return jnp.where(is_known, jnp.clip(best, minimum, 1.0), 1.0)
