"""What a variant learns, and what it cannot read."""

import dataclasses
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemosyne_metatrain.config import FamilyConfig, RunConfig, VariantConfig
from mnemosyne_metatrain.layout import Layout, ParameterSpec
from mnemosyne_metatrain.optimizers.base import StepInputs, Theta
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne, MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.inputs import CELLS, CHUNK_INPUTS
from mnemosyne_metatrain.training.recipe import Recipe
from mnemosyne_metatrain.training.subset import learned_mask, shut
from mnemosyne_metatrain.training.trainer import Trainer, init_population

CONFIG = RunConfig(
    "subset",
    iterations=4,
    checkpoint_every=4,
    tasks=2,
    window=3,
    min_length=3,
    max_length=6,
    warmup=1,
    estimator="pes",
    optimizer={"kind": "lstm", "hidden": 4, "layers": 1},
    recipe=Recipe(learning_rate=0.02),
    families=(FamilyConfig("quadratic", size=4, chunk_size=16),),
    variants=(VariantConfig("all"), VariantConfig("read-out", learns=("out",))),
)
FLAGSHIP = Mnemosyne(MnemosyneConfig(4, 16, cell_width=4, cell_features=4, cell_hidden=4))


@cache
def _drawn() -> Theta:
    return jax.jit(FLAGSHIP.init_theta)(jax.random.key(0))


def test_only_what_is_named_is_learned(tmp_path: Path) -> None:
    start = init_population(CONFIG).theta.learned

    end = Trainer(CONFIG, tmp_path).run().theta.learned

    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)).reshape(2, -1).max(1), start, end)
    for name, tree in moved.items():
        everything, part = np.max(jax.tree.leaves(tree), axis=0)
        assert everything > 1e-3
        assert (part > 1e-3) if name == "out" else (part == 0.0)


def test_names_that_are_unknown_are_refused() -> None:
    mask = learned_mask(_drawn().learned, ())

    with pytest.raises(ValueError, match=r"no learned array is called decoder\.oot"):
        learned_mask(_drawn().learned, ("decoder.out", "decoder.oot"))
    with pytest.raises(ValueError, match="no such inputs: fan inn"):
        shut(FLAGSHIP, _drawn(), mask, ("fan inn",))
    variants = (VariantConfig("blind", shut=("fan in",)),)
    with pytest.raises(ValueError, match="lstm has no inputs to shut"):
        init_population(dataclasses.replace(CONFIG, variants=variants))


def test_rows_of_inputs_that_are_shut_stay_zero() -> None:
    width, size = FLAGSHIP.config.cell_width, CHUNK_INPUTS.index("size")

    theta, mask = shut(FLAGSHIP, _drawn(), learned_mask(_drawn().learned, ()), ("size", CELLS))

    closed = [*range(width), width + size]
    for tree in (theta.learned, mask):
        rows = np.asarray(tree["spatial"]["pool"]["w"]).any(axis=1)
        assert np.flatnonzero(~rows).tolist() == closed
    others = jax.tree.map(lambda x: bool((x == 1).all()), mask)
    del others["spatial"]["pool"]["w"]
    assert all(jax.tree.leaves(others))


def test_an_input_that_is_shut_changes_nothing() -> None:
    # A decoder that says something, so that tokens matter.
    decoder = {**_drawn().learned["decoder"], "out": {"w": jnp.ones((32, 6)), "b": jnp.zeros(6)}}
    theta = Theta({**_drawn().learned, "decoder": decoder}, _drawn().fixed)
    closed, _ = shut(FLAGSHIP, theta, learned_mask(theta.learned, ()), ("fan in", "fan out"))
    grad = jax.random.normal(jax.random.key(2), (4, 4))

    @cache
    def update(fan_out: int) -> object:
        layout = Layout((ParameterSpec("w", (4, 4), 4, fan_out),), 4, 16)

        def run(theta: Theta) -> jax.Array:
            prepared, state = FLAGSHIP.prepare(theta, layout), FLAGSHIP.init(layout)
            inputs = StepInputs.untold()
            found = FLAGSHIP.update(theta, prepared, layout, state, {"w": grad}, inputs)[0]
            return found.delta["w"]

        return jax.jit(run)

    assert not np.array_equal(update(4)(theta), update(400)(theta))
    np.testing.assert_array_equal(update(4)(closed), update(400)(closed))
