"""Meta-training by evolution: the space that it searches, its estimate, and a run that improves."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mnemosyne_metatrain.config import EvolutionConfig, FamilyConfig, RunConfig
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne
from mnemosyne_metatrain.training.checkpoint import load_checkpoint
from mnemosyne_metatrain.training.evolution.evolve import (
    advance,
    begin,
    estimate,
    evolve,
    load_thetas,
)
from mnemosyne_metatrain.training.evolution.space import SearchSpace

SPACE = SearchSpace({"decoder.out": 2.0}, {"eta_matrix": 3.0})
CONFIG = RunConfig(
    "tiny",
    tasks=2,
    families=(FamilyConfig("quadratic", size=8, chunk_size=64),),
    evolution=EvolutionConfig(
        learned={},
        knobs={"eta_matrix": 3.0, "eta_vector": 3.0},
        pairs=4,
        segments=2,
        segment=10,
        rate=0.1,
    ),
)


def test_a_vector_stands_for_the_searched_numbers_alone() -> None:
    theta = Mnemosyne().init_theta(jax.random.key(0))
    vector = SPACE.vector(theta)
    moved = SPACE.theta(theta, vector + 1.0)
    out = moved.learned["decoder"]["out"]
    np.testing.assert_allclose(out["b"], theta.learned["decoder"]["out"]["b"] + 2.0, rtol=1e-6)
    before, after = theta.fixed["knobs"], moved.fixed["knobs"]
    np.testing.assert_allclose(after["eta_matrix"], before["eta_matrix"] * np.exp(3.0), rtol=1e-5)
    assert after["eta_vector"] == before["eta_vector"]
    np.testing.assert_array_equal(
        moved.learned["spatial"]["embed"]["w"], theta.learned["spatial"]["embed"]["w"]
    )
    np.testing.assert_allclose(SPACE.vector(moved), vector + 1.0, rtol=1e-5, atol=1e-6)


def test_the_estimate_points_up_the_cost() -> None:
    slope = np.array([3.0, -1.0, 0.0, 0.5], np.float32)
    noise = jax.random.normal(jax.random.key(0), (1, 4000, 4))
    both = np.concatenate([noise, -noise], axis=1)
    costs = 0.01 * (both @ slope)[..., None] * np.ones((1, 1, 3))
    found = np.asarray(estimate(noise, costs, limit=10.0))[0]
    cosine = found @ slope / np.linalg.norm(found) / np.linalg.norm(slope)
    assert cosine > 0.995


def test_steps_go_down_the_estimate() -> None:
    search = begin(CONFIG)
    gradient = jnp.ones_like(search.center).at[0, 0].set(-1.0)
    moved = advance(search, gradient, 0.1, 0)
    assert moved.center[0, 0] > search.center[0, 0]
    assert bool((moved.center[0, 1:] < search.center[0, 1:]).all())


def test_evolution_raises_a_step_size_that_is_far_too_small(tmp_path: Path) -> None:
    small = {"kind": "mnemosyne", "knobs": {"eta_matrix": 1e-5, "eta_vector": 1e-5}}
    config = dataclasses.replace(CONFIG, optimizer=small)
    evolve(config, tmp_path, seconds=600.0, until=8)
    knobs = load_thetas(config, tmp_path).fixed["knobs"]
    assert float(knobs["eta_matrix"][0]) > 2e-5
    first, generation = load_checkpoint(tmp_path / "checkpoint.npz", begin(config))
    assert generation == 8
    evolve(config, tmp_path, seconds=600.0, resume=True, until=10)
    second, later = load_checkpoint(tmp_path / "checkpoint.npz", first)
    assert later == 10
    assert not np.array_equal(first.center, second.center)
