"""The estimators' interface: states, tasks side by side, costs, and the adaptive probability."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_problem import TARGETS, THETA, as_vector, first_state, make_problem

from mnemosyne_metatrain import estimators
from mnemosyne_metatrain.estimators import UfomAverages, UfomSquares

DATA = TARGETS[:4]


def estimate_by(name: str, state, data, key, coin=True):
    problem = make_problem()
    if name == "pes":
        pair = estimators.init_pes(state, THETA)
        return estimators.pes_gradient(problem, THETA, pair, data, key)
    if name == "ufom":
        return estimators.ufom_gradient(problem, THETA, state, data, coin, 0.5)[0]
    if name == "truncated":
        return estimators.truncated_gradient(problem, THETA, state, data)
    return estimators.first_order_gradient(problem, THETA, state, data)


@pytest.mark.parametrize("name", ["first order", "truncated", "ufom"])
def test_all_estimators_report_the_same_loss_and_next_state(name):
    result = jax.jit(partial(estimate_by, name))(first_state(), DATA, jax.random.key(0))

    x, m, losses = *np.asarray(list(first_state().values())), []
    for target in TARGETS[:4]:
        losses.append(sum(np.array([1.0, 0.2]) * np.log(np.cosh(x - target))))
        m = m / (1 + np.exp(-0.3)) + np.array([1.0, 0.2]) * np.tanh(x - target)
        x = x - np.exp(-1.2) * m
    np.testing.assert_allclose(result.state["x"], x, rtol=1e-13)
    np.testing.assert_allclose(result.aux, losses, rtol=1e-13)
    np.testing.assert_allclose(result.loss, np.mean(losses), rtol=1e-13)


@pytest.mark.parametrize("name", ["first order", "truncated", "ufom", "pes"])
def test_tasks_side_by_side_equal_tasks_one_by_one(name):
    states = jax.tree.map(lambda x: jnp.stack([x, 2 * x, x - 1]), first_state())
    data = jnp.stack([DATA, -DATA, 3 * DATA])
    keys = jax.random.split(jax.random.key(1), 3)

    estimate = partial(estimate_by, name)
    together = jax.jit(jax.vmap(estimate, in_axes=(0, 0, 0, None)))(states, data, keys, True)

    alone = jax.jit(estimate)(jax.tree.map(lambda x: x[1], states), data[1], keys[1], True)
    for x, y in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(x[1], y, rtol=1e-9, atol=1e-12)


def test_ufom_runs_one_branch_only_for_tasks_side_by_side():
    states = jax.tree.map(lambda x: jnp.stack([x, x]), first_state())
    mapped = jax.vmap(partial(estimate_by, "ufom"), in_axes=(0, None, None, None))

    program = str(jax.make_jaxpr(mapped)(states, DATA, jax.random.key(0), jnp.asarray(True)))

    assert "cond[" in program
    assert "select_n" not in program


def test_ufom_is_exact_on_average_over_its_coin():
    heads, tails, exact = (
        as_vector(jax.jit(partial(estimate_by, name))(first_state(), DATA, None, coin).gradient)
        for name, coin in (("ufom", True), ("ufom", False), ("truncated", True))
    )

    np.testing.assert_allclose(0.5 * heads + 0.5 * tails, exact, rtol=1e-13)


def test_first_order_is_exact_where_gradients_are_constant():
    def loss_and_gradient(state, slope):
        return jnp.sum(slope * state["x"]), jnp.broadcast_to(slope, (2,))

    def update(theta, state, gradient, loss, data):
        del loss, data
        momentum = jax.nn.sigmoid(theta["momentum"]) * state["m"] + gradient
        return {"x": state["x"] - jnp.exp(theta["rate"]) * momentum, "m": momentum}

    problem = estimators.problem_from_rule(loss_and_gradient, update)
    first_order, exact = (
        as_vector(jax.jit(partial(f, problem, THETA))(first_state(), DATA).gradient)
        for f in (estimators.first_order_gradient, estimators.truncated_gradient)
    )

    np.testing.assert_allclose(first_order, exact, rtol=1e-13)


def test_recomputing_steps_changes_nothing():
    gradients = [
        as_vector(
            jax.jit(partial(estimators.truncated_gradient, make_problem(recompute), THETA))(
                first_state(), DATA
            ).gradient
        )
        for recompute in (False, True)
    ]

    np.testing.assert_allclose(*gradients, rtol=1e-12)


def test_no_derivative_flows_into_the_state_at_the_start():
    def gradient_norm(scale):
        state = jax.tree.map(lambda x: scale * x, first_state())
        result = estimators.first_order_gradient(make_problem(), THETA, state, DATA)
        return jnp.sum(as_vector(result.gradient))

    assert jax.jit(jax.grad(gradient_norm))(1.0) == 0


def test_pes_credits_earlier_windows_until_a_reset():
    problem = make_problem()
    step = jax.jit(partial(estimators.pes_gradient, problem, THETA))
    start = estimators.init_pes(first_state(), THETA)

    first = step(start, DATA, jax.random.key(0))
    second = step(first.state, DATA, jax.random.key(1))
    alone = step(start, DATA, jax.random.key(1))
    kept = estimators.reset_pes(jnp.asarray(False), first_state(), first.state)
    reset = estimators.reset_pes(jnp.asarray(True), first_state(), first.state)

    xi = [as_vector(result.state.accumulated) for result in (first, second, alone)]
    np.testing.assert_allclose(xi[1], xi[0] + xi[2], rtol=1e-14)
    for x, y in zip(jax.tree.leaves(kept), jax.tree.leaves(first.state), strict=True):
        np.testing.assert_array_equal(x, y)
    for x, y in zip(jax.tree.leaves(reset), jax.tree.leaves(start), strict=True):
        np.testing.assert_array_equal(x, y)


def test_adaptive_probability_minimizes_cost_times_second_moment():
    exact, gap, cost = 5.0, 0.8, 3.0
    averages = UfomAverages(jnp.asarray(exact), jnp.asarray(gap), jnp.asarray(1.0))

    q = float(estimators.adaptive_probability(averages, cost))

    grid = np.linspace(0.05, 1.0, 2001)
    products = (1 + grid * cost) * (exact + (1 / grid - 1) * gap)
    assert abs(q - grid[np.argmin(products)]) < 1e-3


@pytest.mark.parametrize(
    ("exact", "gap", "mass", "expected"),
    [(1.0, 1e-9, 1.0, 0.05), (1.0, 2.0, 1.0, 1.0), (0.0, 0.0, 0.0, 1.0)],
)
def test_adaptive_probability_is_bounded_and_certain_until_it_knows(exact, gap, mass, expected):
    averages = UfomAverages(*(jnp.asarray(x) for x in (exact, gap, mass)))

    assert abs(float(estimators.adaptive_probability(averages, 2.0)) - expected) < 1e-12


def test_averages_take_in_only_corrected_and_finite_windows():
    squares = UfomSquares(jnp.asarray(4.0), jnp.asarray(1.0))
    broken = UfomSquares(jnp.asarray(jnp.nan), jnp.asarray(1.0))
    start = estimators.init_averages()

    update = jax.jit(estimators.update_averages)
    skipped = update(start, squares, jnp.asarray(False))
    taken = update(start, squares, jnp.asarray(True))

    assert float(skipped.mass) == 0
    assert float(update(start, broken, jnp.asarray(True)).mass) == 0
    np.testing.assert_allclose(np.array([taken.exact, taken.gap]) / taken.mass, [4.0, 1.0])
