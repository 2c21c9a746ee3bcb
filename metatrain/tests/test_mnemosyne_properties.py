"""Properties that the flagship keeps for any weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemosyne_metatrain.layout import Layout, ParameterSpec
from mnemosyne_metatrain.optimizers.base import StepInputs, Theta
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne
from mnemosyne_metatrain.optimizers.mnemosyne.costs import costs

SPECS = (ParameterSpec("w", (40, 33), 40, 33), ParameterSpec("b", (5,)))
LAYOUT = Layout(SPECS, chunk_size=256)
OPTIMIZER = Mnemosyne()


@functools.cache
def random_theta() -> Theta:
    """Weights whose decoder is far from zero."""
    theta = OPTIMIZER.init_theta(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 200))
    learned = jax.tree.map(
        lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), theta.learned
    )
    return Theta(learned, theta.fixed)


@functools.cache
def compiled():
    theta = random_theta()
    prepared = OPTIMIZER.prepare(theta, LAYOUT)
    return jax.jit(
        lambda state, grads: OPTIMIZER.update(
            theta, prepared, LAYOUT, state, grads, StepInputs.untold()
        )
    )


def updates(scale: float, steps: int = 4) -> list[dict]:
    state, result = OPTIMIZER.init(LAYOUT), []
    for t in range(steps):
        grads = {
            s.name: scale * jax.random.normal(jax.random.fold_in(jax.random.key(t), i), s.shape)
            for i, s in enumerate(SPECS)
        }
        update, state = compiled()(state, grads)
        result.append(update.delta)
    return result


@pytest.mark.parametrize("power", [-40, 40])
def test_units_of_the_loss_do_not_change_a_bit(power: int) -> None:
    for one, other in zip(updates(1.0), updates(2.0**power), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_no_gradient_no_update() -> None:
    zeros = {s.name: jnp.zeros(s.shape) for s in SPECS}
    update, _ = compiled()(OPTIMIZER.init(LAYOUT), zeros)
    for value in update.delta.values():
        np.testing.assert_array_equal(value, np.zeros(value.shape))


def test_rms_of_an_update_is_bounded_by_the_step_size() -> None:
    knobs = OPTIMIZER.config.knobs
    most = max(knobs.eta_vector, knobs.eta_matrix * (64 / 40) ** knobs.width_exponent)
    for update in updates(1.0, 8):
        for value in update.values():
            rms = float(jnp.sqrt(jnp.mean(value**2)))
            # The prior of 32 coordinates only lowers the rms; a tensor may have several chunks.
            assert rms <= most * np.exp(knobs.eta_high) * np.sqrt((value.size + 32) / value.size)


def test_costs_are_within_the_budget() -> None:
    found = costs(OPTIMIZER.config)
    assert found.multiply_adds <= 130
    assert found.bytes_moved <= 38
    assert found.bytes_kept <= 16
