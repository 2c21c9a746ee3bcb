"""What a variant learns, and what it cannot read."""

import dataclasses
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

SIZES = {"cell_size": 4, "chunk_size": 16, "cell_width": 4, "cell_features": 4, "cell_hidden": 4}
CONFIG = RunConfig(
    "subset",
    iterations=4,
    checkpoint_every=4,
    tasks=2,
    window=3,
    min_length=3,
    max_length=6,
    warmup=1,
    optimizer={"kind": "mnemosyne", **SIZES},
    recipe=Recipe(learning_rate=0.02),
    families=(FamilyConfig("quadratic", size=4, chunk_size=16),),
    variants=(
        VariantConfig("map", learns=("decoder.out",)),
        VariantConfig("blind", shut=("fan in", "size", CELLS)),
    ),
)


def _names(tree: dict) -> dict[str, np.ndarray]:
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {".".join(key.key for key in path): np.asarray(value) for path, value in pairs}


@pytest.mark.parametrize("kind", ["first_order", "pes"])
@pytest.mark.usefixtures("compiled_once")
def test_only_what_is_named_is_learned(tmp_path: Path, kind: str) -> None:
    config = dataclasses.replace(CONFIG, estimator=kind)
    start = _names(init_population(config).theta.learned)

    end = _names(Trainer(config, tmp_path).run().theta.learned)

    width = SIZES["cell_width"]
    closed = [*range(width), width + CHUNK_INPUTS.index("fan in")]
    for name, before in start.items():
        if not name.startswith("decoder.out"):
            np.testing.assert_array_equal(end[name][0], before[0])
    assert np.abs(end["decoder.out.w"][0] - start["decoder.out.w"][0]).max() > 1e-3
    assert not end["spatial.pool.w"][1][closed].any()
    if kind == "pes":
        opened = width + CHUNK_INPUTS.index("fan out")
        assert np.abs(end["spatial.pool.w"][1] - start["spatial.pool.w"][1])[opened].max() > 1e-3


def test_names_that_are_unknown_are_refused() -> None:
    theta = Mnemosyne(MnemosyneConfig()).init_theta(jax.random.key(0))

    with pytest.raises(ValueError, match=r"no learned array is called decoder\.oot"):
        learned_mask(theta.learned, ("decoder.out", "decoder.oot"))
    mask = learned_mask(theta.learned, ())
    with pytest.raises(ValueError, match="no such inputs: fan inn"):
        shut(Mnemosyne(MnemosyneConfig()), theta, mask, ("fan inn",))
    lstm = dataclasses.replace(CONFIG, optimizer={"kind": "lstm"}, variants=CONFIG.variants[1:])
    with pytest.raises(ValueError, match="lstm has no inputs to shut"):
        init_population(lstm)


def test_an_input_that_is_shut_changes_nothing() -> None:
    optimizer = Mnemosyne(MnemosyneConfig(**SIZES))
    drawn = optimizer.init_theta(jax.random.key(1))
    # A decoder that says something, so that tokens matter.
    decoder = {**drawn.learned["decoder"], "out": {"w": jnp.ones((32, 6)), "b": jnp.zeros(6)}}
    theta = Theta({**drawn.learned, "decoder": decoder}, drawn.fixed)
    names = ("fan in", "fan out", "size")
    closed, _ = shut(optimizer, theta, learned_mask(theta.learned, ()), names)
    grad = jax.random.normal(jax.random.key(2), (4, 4))

    def update(theta: Theta, fan_out: int) -> np.ndarray:
        layout = Layout((ParameterSpec("w", (4, 4), 4, fan_out),), 4, 16)
        prepared, state = optimizer.prepare(theta, layout), optimizer.init(layout)
        inputs = StepInputs.untold()
        found = optimizer.update(theta, prepared, layout, state, {"w": grad}, inputs)[0]
        return np.asarray(found.delta["w"])

    assert not np.array_equal(update(theta, 4), update(theta, 400))
    np.testing.assert_array_equal(update(closed, 4), update(closed, 400))
