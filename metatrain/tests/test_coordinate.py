"""The coordinate-wise optimizer: Adam at the start, no units, bounded, and it learns."""

import csv
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnemosyne_metatrain.config import FamilyConfig, RunConfig
from mnemosyne_metatrain.export import export, load
from mnemosyne_metatrain.golden import golden_vectors
from mnemosyne_metatrain.layout import Layout, ParameterSpec
from mnemosyne_metatrain.optimizers.base import StepInputs, Theta, apply_updates
from mnemosyne_metatrain.optimizers.coordinate import (
    CoordinateConfig,
    CoordinateKnobs,
    CoordinateMnemosyne,
)
from mnemosyne_metatrain.optimizers.coordinate.moments import flatten, unflatten
from mnemosyne_metatrain.training.recipe import Recipe
from mnemosyne_metatrain.training.trainer import Trainer

SPECS = (
    ParameterSpec("w", (17, 9), 17, 9),
    ParameterSpec("b", (5,)),
    ParameterSpec("t", (6, 8), 6, 8, transposed=True),
    ParameterSpec("k", (3, 3, 2, 4), 18, 4),
    ParameterSpec("s", ()),
)
LAYOUT = Layout(SPECS, chunk_size=64)
OPTIMIZER = CoordinateMnemosyne()


@functools.cache
def first_theta() -> Theta:
    return jax.jit(OPTIMIZER.init_theta)(jax.random.key(0))


@functools.cache
def random_theta() -> Theta:
    """Weights whose read-out is far from zero."""
    theta = first_theta()
    keys = iter(jax.random.split(jax.random.key(1), 20))
    learned = jax.tree.map(
        lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), theta.learned
    )
    return Theta(learned, theta.fixed)


def draw_gradients(step: int) -> dict:
    return {
        s.name: jax.random.normal(jax.random.fold_in(jax.random.key(step), i), s.shape)
        for i, s in enumerate(SPECS)
    }


def take_step(optimizer: CoordinateMnemosyne, theta: Theta, layout: Layout, state, grads):
    prepared = optimizer.prepare(theta, layout)
    return optimizer.update(theta, prepared, layout, state, grads, StepInputs.untold())


@functools.cache
def compiled():
    return jax.jit(functools.partial(take_step, OPTIMIZER, random_theta(), LAYOUT))


def run(scale: float, steps: int = 4):
    state, result = OPTIMIZER.init(LAYOUT), []
    for t in range(steps):
        grads = {name: scale * value for name, value in draw_gradients(t).items()}
        updates, state = compiled()(state, grads)
        result.append(updates.delta)
    return result, state


def test_a_zero_readout_takes_adams_steps() -> None:
    knobs = CoordinateKnobs(eta_vector=0.01, eta_matrix=0.01, width_exponent=0.0, epsilon=0.0)
    optimizer = CoordinateMnemosyne(CoordinateConfig(knobs=knobs))
    theta = Theta(first_theta().learned, {**first_theta().fixed, "knobs": knobs.arrays()})
    step = jax.jit(functools.partial(take_step, optimizer, theta, LAYOUT))
    adam = optax.adam(0.01, eps=0.0)
    move = jax.jit(adam.update)
    mine = other = {s.name: jnp.zeros(s.shape) for s in SPECS}
    state, adam_state = optimizer.init(LAYOUT), adam.init(other)

    for t in range(12):
        grads = draw_gradients(t)
        updates, state = step(state, grads)
        mine = apply_updates(mine, updates)
        update, adam_state = move(grads, adam_state)
        other = optax.apply_updates(other, update)

    for name in mine:
        np.testing.assert_allclose(mine[name], other[name], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("power", [-40, 40])
def test_units_of_the_loss_do_not_change_a_bit(power: int) -> None:
    for one, other in zip(run(1.0)[0], run(2.0**power)[0], strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_no_gradient_no_update() -> None:
    updates, _ = compiled()(OPTIMIZER.init(LAYOUT), {s.name: jnp.zeros(s.shape) for s in SPECS})

    for value in updates.delta.values():
        np.testing.assert_array_equal(value, np.zeros(value.shape))


def test_a_coordinate_keeps_as_many_floats_as_is_stated() -> None:
    state = OPTIMIZER.init(LAYOUT)
    kept = (*state.moments[:3], *state.recall, state.log_step)

    assert sum(x.size for x in kept) == OPTIMIZER.config.state_floats * LAYOUT.num_parameters
    assert OPTIMIZER.config.state_floats == 44


def test_the_correction_is_bounded() -> None:
    knobs = OPTIMIZER.config.knobs
    for deltas in run(1.0, 6)[0]:
        for spec in SPECS:
            eta = knobs.eta_vector
            if spec.fan_in > 1:
                eta = knobs.eta_matrix * (64 / spec.fan_in) ** knobs.width_exponent
            # Adam's direction is below 8 within 6 steps; four directions of 4 each are added.
            most = eta * np.exp(knobs.eta_rise * 6) * (8.0 + 4 * 4.0 * knobs.correction)
            assert float(jnp.max(jnp.abs(deltas[spec.name]))) <= most


def test_the_order_of_storage_does_not_matter() -> None:
    specs = tuple(ParameterSpec(s.name, s.shape, s.fan_in, s.fan_out, True) for s in SPECS)
    layout = Layout(specs, chunk_size=64)
    step = jax.jit(functools.partial(take_step, OPTIMIZER, random_theta(), layout))

    updates, _ = step(OPTIMIZER.init(layout), draw_gradients(0))

    for name, value in run(1.0, 1)[0][0].items():
        np.testing.assert_allclose(updates.delta[name], value, rtol=1e-4, atol=1e-7)


def test_unflattening_undoes_flattening() -> None:
    values = draw_gradients(0)
    for name, value in unflatten(LAYOUT, flatten(LAYOUT, values)).items():
        np.testing.assert_array_equal(value, values[name])


def test_export_and_golden_vectors(tmp_path: Path) -> None:
    path = export(OPTIMIZER, random_theta(), tmp_path, "0.0.1", {})

    again, _ = load(path)
    arrays, metadata = golden_vectors(path)

    assert again == OPTIMIZER
    assert metadata["optimizer"] == "mnemosyne-coordinate"
    assert all(np.isfinite(value).all() for value in arrays.values())
    assert arrays["after.recall.content"].shape[1:] == (2, 4, 4)


def test_meta_loss_falls(tmp_path: Path) -> None:
    config = RunConfig(
        "tiny",
        iterations=60,
        checkpoint_every=30,
        tasks=4,
        window=5,
        min_length=10,
        max_length=20,
        warmup=2,
        optimizer={"kind": "mnemosyne-coordinate"},
        recipe=Recipe(learning_rate=0.02, first_weight=1.0),
        families=(FamilyConfig("quadratic", size=8),),
    )
    Trainer(config, tmp_path).run()

    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["meta_loss"]) for row in rows]
    assert np.mean(losses[-15:]) < np.mean(losses[:15]) - 0.1
    assert sum(float(row["dropped"]) for row in rows) == 0
