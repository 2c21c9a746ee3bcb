"""Exported weights describe themselves, and come back as they were."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemosyne_metatrain.export import export, load
from mnemosyne_metatrain.optimizers.base import Optimizer, Theta
from mnemosyne_metatrain.optimizers.lstm import Lstm, LstmConfig
from mnemosyne_metatrain.optimizers.mnemosyne import Knobs, Mnemosyne, MnemosyneConfig

MODELS = Path(__file__).parent.parent.parent / "models"


@pytest.mark.parametrize(
    "optimizer",
    [
        Mnemosyne(MnemosyneConfig(hidden=16, knobs=Knobs(eta_low=-2.0))),
        Lstm(LstmConfig(hidden=4)),
        Lstm(LstmConfig(normalized=True), "rnnprop"),
    ],
)
def test_weights_come_back_as_they_were(optimizer: Optimizer, tmp_path: Path) -> None:
    theta = optimizer.init_theta(jax.random.key(3))
    path = export(optimizer, theta, tmp_path, "0.0.1", {"run": "test"})
    again, loaded = load(path)
    assert again == optimizer
    for one, other in zip(jax.tree.leaves(theta), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    optimizer = Mnemosyne()
    theta = optimizer.init_theta(jax.random.key(0))
    broken = Theta(jax.tree.map(lambda x: x * jnp.nan, theta.learned), theta.fixed)
    with pytest.raises(ValueError, match="not finite"):
        export(optimizer, broken, tmp_path, "0.0.1", {})


@pytest.mark.parametrize("path", sorted(MODELS.glob("*/*/weights.safetensors")))
def test_shipped_weights_load(path: Path) -> None:
    optimizer, _ = load(path)
    assert optimizer.name == path.parent.parent.name
