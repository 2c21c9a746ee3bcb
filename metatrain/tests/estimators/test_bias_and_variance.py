"""What each estimator gets right on average, and how much it scatters, against loops."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from tiny_problem import STEPS, WINDOW, estimate_with, exact_gradient, sample


@functools.cache
def samples(name: str, window: int, draws: int) -> np.ndarray:
    return sample(name, window, draws)


def gradient(name: str, window: int) -> np.ndarray:
    """A meta-gradient that has no randomness of its own."""
    return samples(name, window, 1)[0]


def standard_errors(estimates: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Distance of the mean from `expected`, in standard errors, for each entry."""
    return np.abs(estimates.mean(0) - expected) / (estimates.std(0) / np.sqrt(len(estimates)))


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def test_backpropagation_through_the_whole_horizon_is_exact():
    assert relative_error(gradient("truncated", STEPS), exact_gradient()) < 1e-9


def test_truncation_is_biased():
    assert relative_error(gradient("truncated", WINDOW), exact_gradient()) > 0.3


def test_first_order_is_biased_even_over_the_whole_horizon():
    assert relative_error(gradient("first order", STEPS), exact_gradient()) > 0.3


def test_first_order_and_truncated_gradients_have_no_variance_of_their_own():
    for name in ("first order", "truncated"):
        assert np.ptp(samples(name, WINDOW, 3), axis=0).max() == 0


def test_ufom_over_the_whole_horizon_is_unbiased():
    estimates = samples("ufom 0.2", STEPS, 20_000)

    assert standard_errors(estimates, exact_gradient()).max() < 4
    assert standard_errors(estimates, gradient("first order", STEPS)).max() > 40


def test_ufom_over_windows_is_unbiased_for_the_unrolled_windows_only():
    estimates = samples("ufom 0.2", WINDOW, 20_000)

    assert standard_errors(estimates, gradient("truncated", WINDOW)).max() < 4
    assert standard_errors(estimates, exact_gradient()).max() > 40


def test_ufom_scatters_by_the_gap_to_the_exact_gradient():
    gap = gradient("truncated", STEPS) - gradient("first order", STEPS)

    variance = samples("ufom 0.2", STEPS, 20_000).var(0)

    np.testing.assert_allclose(variance, (1 / 0.2 - 1) * gap**2, rtol=0.05)


def test_pes_over_windows_is_unbiased_for_the_whole_horizon():
    estimates = samples("pes", WINDOW, 100_000)

    assert standard_errors(estimates, exact_gradient()).max() < 4
    assert standard_errors(estimates, gradient("truncated", WINDOW)).max() > 40


def test_pes_scatters_more_than_the_gradient_is_long():
    spread = np.sqrt(samples("pes", WINDOW, 100_000).var(0).sum())

    assert spread > np.linalg.norm(exact_gradient())


@pytest.mark.parametrize("name", ["first order", "truncated", "ufom 0.2", "pes"])
def test_the_same_key_gives_the_same_bits(name):
    estimate = jax.jit(functools.partial(estimate_with, name))

    np.testing.assert_array_equal(estimate(jax.random.key(3)), estimate(jax.random.key(3)))
