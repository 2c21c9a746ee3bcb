"""The flagship with other write rules and feature maps, and with cells of one coordinate."""

from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemosyne_metatrain.components.feature_maps import FeatureMapKind
from mnemosyne_metatrain.layout import Layout, ParameterSpec
from mnemosyne_metatrain.optimizers.base import StepInputs, Theta, Updates
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne, MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.temporal import TemporalEncoder

SPECS = (ParameterSpec("w", (9, 15), 9, 15), ParameterSpec("b", (3,)))
SMALL = MnemosyneConfig(
    cell_width=4, frequencies=1, cell_hidden=4, token_width=8, memory_width=4, hidden=4
)
STEPS = 3


def random_theta(optimizer: Mnemosyne) -> Theta:
    theta = jax.jit(optimizer.init_theta)(jax.random.key(0))
    leaves, structure = jax.tree.flatten(theta.learned)
    rng = np.random.default_rng(1)
    moved = [x + jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32) for x in leaves]
    return Theta(jax.tree.unflatten(structure, moved), theta.fixed)


def run(config: MnemosyneConfig, scales: tuple[float, ...], chunk_size: int = 64) -> list[dict]:
    """Updates of three steps, stacked, and the last state, for each scale of the gradients."""
    optimizer = Mnemosyne(config)
    layout = Layout(SPECS, config.cell_size, chunk_size)
    theta = random_theta(optimizer)
    untold = StepInputs.untold()

    @jax.jit
    def steps(grads: dict) -> tuple[object, Updates]:
        prepared = optimizer.prepare(theta, layout)

        def step(state: object, grad: dict) -> tuple[object, Updates]:
            updates, state = optimizer.update(theta, prepared, layout, state, grad, untold)
            return state, updates

        return jax.lax.scan(step, optimizer.init(layout), grads)

    rng = np.random.default_rng(0)
    grads = {s.name: rng.normal(size=(STEPS, *s.shape)).astype(np.float32) for s in SPECS}
    results = []
    for scale in scales:
        state, updates = steps({name: np.float32(scale) * g for name, g in grads.items()})
        results.append({**updates.delta, "recall": state.recall})
    return results


def check(results: list[dict]) -> None:
    for name in ("w", "b"):
        value = results[0][name]
        assert bool(jnp.isfinite(value).all()) and float(jnp.abs(value).max()) > 0
        for other in results[1:]:
            np.testing.assert_array_equal(value, other[name])


@pytest.mark.parametrize(
    ("rule", "kind", "cell_size", "features"),
    [("delta", "dpfp", 32, 16), ("recurrent_delta", "favor_plus", 1, 8)],
)
def test_other_rules_maps_and_cells_are_finite_and_without_units(
    rule: str, kind: str, cell_size: int, features: int
) -> None:
    config = replace(SMALL, write_rule=rule, feature_map=kind, cell_size=cell_size)
    results = run(config, (1.0, 2.0**-40, 2.0**40))

    check(results)
    recall = results[0]["recall"]
    assert recall.content.shape == (4, 2, features, 4)
    assert [x.shape for x in recall[1:]] == ([(4, 2, 4)] if rule == "recurrent_delta" else [])
    assert all(float(jnp.abs(x).max()) > 0 for x in recall)


def test_an_unknown_write_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown write rule"):
        MnemosyneConfig(write_rule="subtractive")


def test_every_feature_map_serves_the_memory_in_time() -> None:
    def read(kind: FeatureMapKind, tokens: jax.Array) -> jax.Array:
        encoder = TemporalEncoder(replace(SMALL, feature_map=kind, write_rule="delta"))
        theta = encoder.init(jax.random.key(0))

        def step(memory: object, x: jax.Array) -> tuple[object, jax.Array]:
            found, memory = encoder.step(theta, memory, x)
            return memory, found

        return jax.lax.scan(step, encoder.empty(2), tokens)[1]

    kinds = get_args(FeatureMapKind)
    tokens = jax.random.normal(jax.random.key(1), (STEPS, 2, SMALL.token_width))
    for value in jax.jit(lambda x: [read(kind, x) for kind in kinds])(tokens):
        assert value.shape == (STEPS, 2, 8)
        assert bool(jnp.isfinite(value).all())
