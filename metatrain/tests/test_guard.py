"""The guard: what trips it, what lets go, and what it caps."""

import jax.numpy as jnp
import numpy as np

from mnemosyne_metatrain.optimizers.base import StepInputs
from mnemosyne_metatrain.optimizers.mnemosyne import Knobs, guard
from mnemosyne_metatrain.optimizers.mnemosyne.conditions import empty_trace, update_trace

KNOBS = Knobs().arrays()


def watch(losses: list[float], knobs: dict = KNOBS) -> list[guard.GuardState]:
    state, trace, seen = guard.open_guard(), empty_trace(), []
    for loss in losses:
        inputs = StepInputs.untold()._replace(loss=jnp.asarray(loss), has_loss=jnp.ones(()))
        trace = update_trace(trace, inputs)
        state = guard.watch(state, trace, inputs, knobs)
        seen.append(state)
    return seen


def test_a_falling_loss_never_trips() -> None:
    states = watch(list(np.geomspace(3.0, 0.01, 60)))
    assert max(float(s.level) for s in states) == 0.0
    assert float(states[-1].trips) == 0.0


def test_a_jump_trips_once_and_the_guard_lets_go_when_the_loss_is_back() -> None:
    states = watch([1.0] * 40 + [10.0] * 20 + [1.0] * 400)
    assert float(states[39].level) == 0.0
    assert float(states[59].level) == 1.0
    assert float(states[-1].level) == 0.0
    assert float(states[-1].trips) == 1.0


def test_a_loss_that_is_not_finite_trips_and_does_not_stay_in_the_means() -> None:
    states = watch([1.0] * 10 + [float("nan")] + [1.0] * 400)
    assert float(states[10].level) == 1.0
    assert float(states[-1].level) == 0.0
    assert np.isfinite(float(states[-1].best))


def test_without_the_gate_nothing_trips() -> None:
    off = {**KNOBS, "gate_guard": jnp.zeros(())}
    assert float(watch([1.0] * 40 + [1e6] * 20, off)[-1].level) == 0.0


def test_the_cap_bounds_the_rms_of_a_chunk_and_counts_it() -> None:
    update = jnp.stack([jnp.ones((2, 4)), 1e-3 * jnp.ones((2, 4))])
    counts, limit = jnp.asarray([8.0, 8.0]), jnp.asarray([0.5, 0.5])
    bounded, state = guard.bound(guard.open_guard(), update, limit, counts, KNOBS)
    np.testing.assert_allclose(bounded[0], 0.05, rtol=1e-6)
    np.testing.assert_array_equal(bounded[1], update[1])
    assert float(state.capped) == 1.0
