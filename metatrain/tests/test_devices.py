"""A population spread over two devices trains as it does on one."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemosyne_metatrain.config import FamilyConfig, RunConfig, VariantConfig
from mnemosyne_metatrain.training import trainer
from mnemosyne_metatrain.training.devices import map_variants, split, variant_mesh
from mnemosyne_metatrain.training.recipe import Recipe

CONFIG = RunConfig(
    "spread",
    iterations=12,
    checkpoint_every=6,
    tasks=2,
    window=3,
    min_length=6,
    max_length=9,
    warmup=2,
    optimizer={"kind": "lstm", "hidden": 4, "layers": 1},
    recipe=Recipe(learning_rate=0.02),
    families=(FamilyConfig("quadratic", size=4),),
    variants=(VariantConfig("a"), VariantConfig("b", 1, recipe={"learning_rate": 0.01})),
)


@pytest.mark.parametrize(
    ("variants", "devices", "used"), [(1, 2, 1), (2, 2, 2), (3, 2, 1), (6, 4, 3), (4, 8, 4)]
)
def test_as_many_devices_as_divide_the_variants(variants: int, devices: int, used: int) -> None:
    stand_ins = [jax.devices()[0]] * devices
    assert variant_mesh(variants, stand_ins).size == used


def test_each_device_maps_its_share() -> None:
    mesh = variant_mesh(4)
    assert mesh.size == 2

    def function(x: jax.Array, shared: jax.Array) -> jax.Array:
        return x * shared

    mapped = jax.jit(map_variants(mesh, function, (True, False)))
    result = mapped(split(mesh, jnp.arange(4.0)), jnp.asarray(3.0))

    np.testing.assert_array_equal(result, 3.0 * np.arange(4.0))
    assert len(result.sharding.device_set) == 2


@pytest.mark.usefixtures("compiled_once")
def test_two_devices_train_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = trainer.Trainer(CONFIG, tmp_path / "two").run()
    trainer.Trainer(CONFIG, tmp_path / "legs").run(until=6)
    resumed = trainer.Trainer(CONFIG, tmp_path / "legs").run(resume=True)
    monkeypatch.setattr(trainer, "variant_mesh", lambda n: variant_mesh(n, jax.devices()[:1]))
    alone = trainer.Trainer(CONFIG, tmp_path / "one").run()

    for one, other in zip(jax.tree.leaves(spread), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(jax.tree.leaves(spread), jax.tree.leaves(alone), strict=True):
        assert len(one.sharding.device_set) == 2
        assert len(other.sharding.device_set) == 1
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
