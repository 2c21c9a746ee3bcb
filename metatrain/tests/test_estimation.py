"""Estimators inside `train`: each runs, moves the weights, and resumes to the same bits.

The first-order one is that of the other tests of training.
"""

import csv
import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemosyne_metatrain.config import FamilyConfig, RunConfig
from mnemosyne_metatrain.layout import Layout, ParameterSpec
from mnemosyne_metatrain.optimizers.base import StepInputs, Theta
from mnemosyne_metatrain.optimizers.registry import make_optimizer
from mnemosyne_metatrain.tasks.quadratic import QuadraticFamily
from mnemosyne_metatrain.training.checkpoint import load_notes
from mnemosyne_metatrain.training.outer import OuterStep
from mnemosyne_metatrain.training.recipe import Recipe
from mnemosyne_metatrain.training.trainer import Trainer, init_population, outer_step
from mnemosyne_metatrain.training.window import run_window

CONFIG = RunConfig(
    "estimators",
    iterations=80,
    checkpoint_every=40,
    tasks=4,
    window=4,
    min_length=8,
    max_length=12,
    warmup=2,
    optimizer={"kind": "lstm", "hidden": 4, "layers": 1},
    recipe=Recipe(learning_rate=0.02, first_weight=1.0),
    families=(FamilyConfig("quadratic", size=4),),
)


@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize("kind", ["truncated", "ufom", "pes"])
def test_each_estimator_trains_and_resumes_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, estimator=kind)
    whole = Trainer(config, tmp_path / "whole").run()
    Trainer(config, tmp_path / "legs").run(until=40)
    resumed = Trainer(config, tmp_path / "legs").run(resume=True)

    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    with (tmp_path / "whole" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = np.asarray([float(row["meta_loss"]) for row in rows])
    corrected = np.asarray([float(row["exact_square"]) for row in rows]) > 0
    assert np.isfinite(losses).all()
    assert sum(float(row["dropped"]) for row in rows) == 0
    if kind != "pes":
        assert losses[-30:].mean() < losses[:30].mean()
    start = init_population(config).theta.learned
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), start, whole.theta.learned)
    assert max(jax.tree.leaves(moved)) > 0.01
    if kind == "ufom":
        notes = load_notes(tmp_path / "whole" / "checkpoint.npz")
        assert 0 < notes["ufom.gap"] and 0 < notes["ufom.mass"] < 1
        # The first coin always falls; q is adapted from then on.
        assert corrected[0] and corrected.sum() < len(rows)
    else:
        assert not corrected.any()


def test_only_pes_carries_more_than_a_task() -> None:
    def places(kind: str) -> int:
        step = outer_step(dataclasses.replace(CONFIG, estimator=kind), CONFIG.families[0])
        learned = step.optimizer.init_theta(jax.random.key(0)).learned
        size = sum(x.size for x in jax.tree.leaves(learned))
        total = sum(x.size for x in jax.tree.leaves(step.no_tasks(None, learned)))
        return total - (CONFIG.tasks * size if kind == "pes" else 0)

    assert places("ufom") == places("truncated") == places("first_order")
    assert places("pes") == 2 * places("first_order")


def test_the_exact_window_is_differentiated_through_the_inner_gradients() -> None:
    with jax.enable_x64(True):
        family = QuadraticFamily(4)
        layout = Layout(family.specs, 4, 16)
        optimizer = make_optimizer({**CONFIG.optimizer, "output_scale": 1.0})
        outer = OuterStep(optimizer, family, layout, 1, 6, 12, 12, 0.0)
        theta = jax.jit(optimizer.init_theta)(jax.random.key(1))
        learned = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), theta.learned)
        task = jax.jit(outer._new_task)(jax.random.key(2), None, jnp.zeros((), bool))
        keys = jax.random.split(jax.random.key(3), (2, 6))
        # Training batches have noise that the derivative sees and the value does not.
        draw = jax.vmap(partial(family.batch, drawn=task.drawn, data=None, split="validation"))
        # The least loss so far is a constant to derivatives, and enters by spikes alone.
        recipe = Recipe(spike_weight=0.0).arrays()

        def loss(learned: dict, is_exact: bool, keeps_products: bool) -> jax.Array:
            parts = (optimizer, layout, family, recipe, Theta(learned, {}), task)
            return run_window(*parts, draw(keys[0]), draw(keys[1]), is_exact, keeps_products)[0]

        rng = np.random.default_rng(4)
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape), learned)

        def along(scale: jax.Array, is_exact: bool, keeps_products: bool = True) -> jax.Array:
            moved = jax.tree.map(lambda x, d: x + scale * d, learned, direction)
            return loss(moved, is_exact, keeps_products)

        differentiate = jax.jit(jax.value_and_grad(along), static_argnums=(1, 2))
        zero, step = jnp.zeros((), jnp.float64), 1e-5
        value, exact = differentiate(zero, True)
        same_value, first_order = differentiate(zero, False)
        _, computed_again = differentiate(zero, False, False)
        numeric = (differentiate(step, False)[0] - differentiate(-step, False)[0]) / (2 * step)

    np.testing.assert_allclose(value, same_value, rtol=1e-12)
    np.testing.assert_allclose(exact, numeric, rtol=1e-5)
    np.testing.assert_allclose(computed_again, first_order, rtol=1e-12)
    assert abs(float(first_order - exact)) > 1e-3 * abs(float(exact))


@pytest.mark.parametrize("kind", ["mnemosyne", "mnemosyne-coordinate", "lstm", "rnnprop"])
def test_updates_have_finite_derivatives_in_gradients_that_are_zero(kind: str) -> None:
    optimizer = make_optimizer({"kind": kind})
    specs = (ParameterSpec("w", (5, 9), 5, 9), ParameterSpec("b", (3,)))
    layout = Layout(specs, 32, 64)
    theta = jax.jit(optimizer.init_theta)(jax.random.key(0))

    @jax.jit
    def slope(grads: dict) -> dict:
        def total(grads: dict) -> jax.Array:
            prepared, state = optimizer.prepare(theta, layout), optimizer.init(layout)
            untold = StepInputs.untold()
            _, state = optimizer.update(theta, prepared, layout, state, grads, untold)
            updates, _ = optimizer.update(theta, prepared, layout, state, grads, untold)
            return sum(jnp.sum(jnp.sin(x)) for x in updates.delta.values())

        return jax.grad(total)(grads)

    grads = {"w": jnp.zeros((5, 9)).at[0].set(1.0), "b": jnp.zeros(3)}
    for value in slope(grads).values():
        assert bool(jnp.isfinite(value).all())
