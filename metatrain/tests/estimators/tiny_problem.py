"""A problem small enough to differentiate exactly, and the estimators' bias and variance on it.

Two parameters are trained for 12 steps by momentum on a curved loss; theta is the log step size
and the momentum's logit. Run as a program, it prints the table of `docs/components.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mnemosyne_metatrain import estimators
from mnemosyne_metatrain.estimators import InnerProblem

STEPS, WINDOW = 12, 4
CURVATURE = np.array([1.0, 0.2])
START = np.array([1.5, -2.0])
THETA = {"rate": np.array(-1.2), "momentum": np.array(0.3)}
TARGETS = 0.3 * np.random.default_rng(0).normal(size=(STEPS, 2))
SIGMA = 0.01


def loss_and_gradient(state, target):
    error = state["x"] - target
    loss = jnp.sum(CURVATURE * jnp.log(jnp.cosh(error)))
    return loss, CURVATURE * jnp.tanh(error)


def update(theta, state, gradient, loss, target):
    del loss, target
    keep = jax.nn.sigmoid(theta["momentum"])
    momentum = keep * state["m"] + gradient
    return {"x": state["x"] - jnp.exp(theta["rate"]) * momentum, "m": momentum}


def first_state():
    return {"x": jnp.asarray(START), "m": jnp.zeros(2)}


def make_problem(recompute: bool = False) -> InnerProblem:
    return estimators.problem_from_rule(loss_and_gradient, update, recompute)


def reference_objective(rate: float, momentum: float) -> float:
    """Sum over windows of the mean loss, by plain loops in double precision."""
    x, m = [float(v) for v in START], [0.0, 0.0]
    keep, total = 1 / (1 + math.exp(-momentum)), 0.0
    for target in TARGETS:
        for i in range(2):
            error = x[i] - float(target[i])
            total += CURVATURE[i] * math.log(math.cosh(error)) / WINDOW
            m[i] = keep * m[i] + CURVATURE[i] * math.tanh(error)
            x[i] -= math.exp(rate) * m[i]
    return total


def exact_gradient() -> np.ndarray:
    """Central differences of fourth order of the plain loops: [rate, momentum]."""
    rate, momentum, h = float(THETA["rate"]), float(THETA["momentum"]), 1e-3

    def slope(f: Callable[[float], float]) -> float:
        return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)

    along_rate = slope(lambda e: reference_objective(rate + e, momentum))
    along_momentum = slope(lambda e: reference_objective(rate, momentum + e))
    return np.array([along_rate, along_momentum])


def as_vector(gradient) -> jax.Array:
    return jnp.stack([gradient["rate"], gradient["momentum"]])


def sum_over_windows(estimate, state, key, window: int = WINDOW) -> jax.Array:
    """Sums a whole task's estimates; weights make the objective the same for every `window`."""
    total = jnp.zeros(2)
    for i in range(STEPS // window):
        data = jnp.asarray(TARGETS[i * window : (i + 1) * window])
        result = estimate(state, data, jax.random.fold_in(key, i))
        state = result.state
        total = total + as_vector(result.gradient) * (window / WINDOW)
    return total


def estimate_with(name: str, key: jax.Array, window: int = WINDOW) -> jax.Array:
    """One task's meta-gradient by the estimator of that name, [2]."""
    problem = make_problem()
    state = first_state()
    if name == "pes":
        state = estimators.init_pes(state, THETA)

    def estimate(state, data, key):
        if name == "first order":
            return estimators.first_order_gradient(problem, THETA, state, data)
        if name == "truncated":
            return estimators.truncated_gradient(problem, THETA, state, data)
        if name == "pes":
            return estimators.pes_gradient(problem, THETA, state, data, key, SIGMA)
        q = float(name.removeprefix("ufom "))
        coin = estimators.draw_correction(key, q)
        return estimators.ufom_gradient(problem, THETA, state, data, coin, q)[0]

    return sum_over_windows(estimate, state, key, window)


def sample(name: str, window: int = WINDOW, draws: int = 20_000) -> np.ndarray:
    """Many independent estimates, [draws, 2]."""
    keys = jax.random.split(jax.random.key(0), draws)
    run = jax.jit(jax.vmap(partial(estimate_with, name, window=window)))
    return np.asarray(run(keys))


def main() -> None:
    exact = exact_gradient()
    print("| estimator | window | relative bias | relative standard deviation |")
    print("|---|---|---|---|")
    for name in ("first order", "truncated", "ufom 0.2", "pes"):
        for window in (WINDOW, STEPS):
            draws = sample(name, window, 200_000 if name in ("pes", "ufom 0.2") else 1)
            bias = np.linalg.norm(draws.mean(0) - exact) / np.linalg.norm(exact)
            spread = np.sqrt(draws.var(0).sum()) / np.linalg.norm(exact)
            print(f"| {name} | {window} of {STEPS} | {bias:.3f} | {spread:.3f} |")


if __name__ == "__main__":
    with jax.enable_x64(True):
        main()
