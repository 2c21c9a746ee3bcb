"""Teaching: what the last map reads, what the equations find, and that rounds resume."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemosyne_metatrain.config import FamilyConfig, RunConfig, TeachingConfig
from mnemosyne_metatrain.export import export
from mnemosyne_metatrain.layout import Layout, ParameterSpec
from mnemosyne_metatrain.optimizers.base import StepInputs, Theta
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne, MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.dense import dense
from mnemosyne_metatrain.optimizers.mnemosyne.inputs import CHUNK_INPUTS
from mnemosyne_metatrain.tasks.field import FieldFamily
from mnemosyne_metatrain.tasks.mlp import MlpFamily
from mnemosyne_metatrain.training.checkpoint import load_checkpoint
from mnemosyne_metatrain.training.teaching import solve, teach
from mnemosyne_metatrain.training.teaching.runs import phase_of_segment
from mnemosyne_metatrain.training.teaching.scaffold import (
    Policy,
    read_features,
    read_names,
    scaffold,
    with_policy,
    zero_policy,
)

SMALL = MnemosyneConfig(cell_size=32, chunk_size=256, cell_width=8, cell_features=8, cell_hidden=8)
CONFIG = RunConfig(
    name="tiny",
    tasks=3,
    optimizer={
        "kind": "mnemosyne",
        "cell_size": 32,
        "cell_width": 8,
        "cell_features": 8,
        "cell_hidden": 8,
    },
    families=(FamilyConfig("field", (8,), chunk_size=256),),
    teaching=TeachingConfig(
        pairs=4, segments=2, segment=5, phase_starts=(1,), horizons=(1, 2), ridges=(20.0,)
    ),
)


def test_a_zero_policy_steps_as_a_zero_decoder() -> None:
    optimizer = Mnemosyne(SMALL)
    layout = Layout((ParameterSpec("w", (24, 16), 24, 16), ParameterSpec("b", (16,))), 32, 256)
    grads = {"w": jnp.sin(jnp.arange(384.0)).reshape(24, 16), "b": jnp.ones(16)}
    plain = optimizer.init_theta(jax.random.key(0))
    taught = with_policy(
        scaffold(optimizer, jax.random.key(0)), zero_policy(optimizer), jnp.zeros(6)
    )

    updates = []
    for theta in (plain, taught):
        prepared = optimizer.prepare(theta, layout)
        state = optimizer.init(layout)
        step = functools.partial(optimizer.update, theta, prepared, layout)
        _, state = step(state, grads, StepInputs.untold())
        updates.append(step(state, grads, StepInputs.untold())[0].delta)

    jax.tree.map(np.testing.assert_array_equal, *updates)


def test_what_is_recorded_is_what_the_last_map_reads() -> None:
    optimizer = Mnemosyne(SMALL)
    layout = Layout((ParameterSpec("w", (24, 16), 24, 16), ParameterSpec("b", (16,))), 32, 256)
    base = scaffold(optimizer, jax.random.key(1))
    names = read_names()
    assert len(names) <= SMALL.hidden and len(set(names)) == len(names)
    state = optimizer.init(layout)
    for step in range(6):
        grads = {
            "w": jnp.sin(jnp.arange(384.0) * (1 + 0.2 * step)).reshape(24, 16),
            "b": jnp.cos(jnp.arange(16.0) + step),
        }
        _, state = optimizer.update(
            base, optimizer.prepare(base, layout), layout, state, grads, StepInputs.untold()
        )

    read = np.asarray(read_features(optimizer, base, layout, state))

    tokens = np.asarray(state.tokens)
    for name in ("g2/s", "matrix", "log age"):
        index = CHUNK_INPUTS.index(name)
        np.testing.assert_allclose(read[:, names.index(name)], np.tanh(tokens[:, index]), atol=1e-6)
    around = np.arctanh(read[:, names.index("m2 around")])
    np.testing.assert_allclose(around, tokens[:, CHUNK_INPUTS.index("m2")].mean(), atol=1e-4)


def test_the_memory_in_time_is_a_running_mean() -> None:
    optimizer = Mnemosyne(SMALL)
    theta = scaffold(optimizer, jax.random.key(1))
    part = Theta(theta.learned["temporal"], theta.fixed["temporal"])
    memory = optimizer.temporal.empty(2)
    tokens = np.asarray(jax.random.normal(jax.random.key(2), (20, 2, SMALL.token_width)))
    mean, mass = np.zeros((2, 9)), 0.0
    for token in tokens:
        read, memory = optimizer.temporal.step(part, memory, jnp.asarray(token))
        mean, mass = 0.99 * mean + token[:, :9], 0.99 * mass + 1.0

    width = SMALL.memory_width
    np.testing.assert_allclose(read[:, width : width + 9], mean / mass, atol=1e-4)


def test_curves_of_the_horizon_turn_where_their_names_say() -> None:
    optimizer = Mnemosyne(SMALL)
    hidden = scaffold(optimizer, jax.random.key(1)).learned["decoder"]["hidden"]
    joined = np.zeros((3, optimizer.decoder.inputs), np.float32)
    for row, (left, told) in enumerate([(0.15, 1.0), (0.0, 1.0), (0.0, 0.0)]):
        joined[row, CHUNK_INPUTS.index("left")] = np.tanh(left)
        joined[row, CHUNK_INPUTS.index("horizon told")] = np.tanh(told)

    curve = np.tanh(np.asarray(dense(hidden, jnp.asarray(joined))))
    curve = curve[:, read_names().index("left 0.15")]

    assert abs(curve[0]) < 1e-5
    assert curve[1] > 0.99
    assert curve[2] == 0.0


def test_narrow_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="got 16, 16 and 32"):
        scaffold(Mnemosyne(MnemosyneConfig(token_width=16)), jax.random.key(0))


def _synthetic(
    seed: int,
    tasks: int,
    pairs: int,
    truth_seed: int | None = None,
    at: solve.Array | None = None,
) -> tuple[list[solve.Lessons], solve.Array]:
    """Lessons of a quadratic whose best pushes are a linear map of three features and a bias.

    With `at`, they are those of a map that is there already.
    """
    rng = np.random.default_rng(seed if truth_seed is None else 100 + truth_seed)
    truth = 0.4 * rng.normal(size=(4, 6))
    root = rng.normal(size=(6, 6)) / 3
    if truth_seed is not None:
        rng = np.random.default_rng(seed)
    curvature = root @ root.T + 0.3 * np.eye(6)
    phases = np.asarray([0, 0, 1])
    features = rng.normal(size=(tasks, 3, 2, 4))
    features[..., :3] = features[:, :1, :1, :3] + 1e-3 * features[..., :3]
    features[..., 3] = 1.0
    best = features[:, 0, 0] @ (truth if at is None else truth - at)
    pushes = rng.normal(size=(tasks, pairs, 2, 6))

    def cost(x: solve.Array) -> solve.Array:
        away = x - best[:, None, None, :]
        result: solve.Array = 0.01 * 0.5 * np.einsum("tnpi,ij,tnpj->tn", away, curvature, away)
        return result

    zero = np.zeros((tasks, 1, 2, 6))
    every = np.concatenate([zero, pushes, -pushes], axis=1)
    lessons = solve.learn(cost(every), pushes, features, phases, 1e6)
    return [lessons], truth


def test_the_equations_find_the_map_that_made_the_costs() -> None:
    lessons, truth = _synthetic(0, tasks=600, pairs=40)
    curvature = solve.curvatures(lessons)

    change = solve.best_change(solve.equations(lessons, curvature), np.ones(4, bool), 0.0)

    np.testing.assert_allclose(change, truth, atol=0.08)
    assert np.all(np.linalg.eigvalsh(curvature) > 0)
    assert solve.predicted_gain(lessons, curvature, change) < 0


def test_lessons_of_two_rounds_are_those_of_one_with_all_of_their_tasks() -> None:
    mask, moved = np.ones(4, bool), 0.1 * np.arange(24.0).reshape(4, 6)
    systems, lessons = [], []
    # The second round begins where the first one has moved the map to.
    for seed, at in ((0, None), (3, moved)):
        found, _ = _synthetic(seed, tasks=150, pairs=20, truth_seed=0, at=at)
        lessons.append(found[0])
    curvature = np.stack([np.eye(6), 2.0 * np.eye(6)])
    systems = [solve.equations([lesson], curvature) for lesson in lessons]

    together = solve.combined(systems[0], moved, 1.0, systems[1])
    change = solve.best_change(together, mask, 5.0)

    first = systems[0]
    right = first.right - (first.matrix @ moved.reshape(-1)).reshape(4, 6) + systems[1].right
    np.testing.assert_allclose(together.right, right)
    both = solve.best_change(solve.equations(lessons, curvature)._replace(right=right), mask, 5.0)
    np.testing.assert_allclose(change, both, rtol=1e-9)
    forgotten = solve.combined(systems[0], moved, 0.0, systems[1])
    np.testing.assert_array_equal(forgotten.matrix, systems[1].matrix)


def test_lessons_that_are_remembered_come_nearer_to_the_truth() -> None:
    moved = 0.05 * np.arange(24.0).reshape(4, 6)
    errors = []
    for seed in range(6):
        # Few pairs: what one round says is noise for a good part.
        first, truth = _synthetic(2 * seed, tasks=60, pairs=3, truth_seed=seed)
        second, _ = _synthetic(2 * seed + 1, tasks=60, pairs=3, truth_seed=seed, at=moved)
        systems = [solve.equations(x, solve.curvatures(x)) for x in (first, second)]
        found = [systems[1], solve.combined(systems[0], moved, 1.0, systems[1])]
        mask = np.ones(4, bool)
        away = [solve.best_change(x, mask, 5.0) - (truth - moved) for x in found]
        errors.append([float(np.linalg.norm(x)) for x in away])
    alone, remembered = np.mean(errors, axis=0)
    assert remembered < 0.85 * alone


def test_a_ridge_shrinks_weights_and_not_the_biases() -> None:
    lessons, truth = _synthetic(1, tasks=200, pairs=40)
    curvature = solve.curvatures(lessons)

    change = solve.best_change(solve.equations(lessons, curvature), np.ones(4, bool), 1e7)

    assert np.abs(change[:3]).max() < 1e-3
    assert np.abs(change[3] - truth[3]).max() < 0.25


def test_masked_features_carry_no_weight() -> None:
    lessons, _ = _synthetic(2, tasks=100, pairs=10)
    mask = np.asarray([True, False, True, True])

    system = solve.equations(lessons, solve.curvatures(lessons))
    change = solve.best_change(system, mask, 1.0)

    assert np.all(change[1] == 0) and np.all(change[0] != 0)


def test_phases_follow_their_first_segments() -> None:
    plan = TeachingConfig(segments=6, phase_starts=(2, 5))
    assert phase_of_segment(plan).tolist() == [0, 0, 1, 1, 1, 2]


def test_the_field_has_unit_variance_and_can_be_learned() -> None:
    family = FieldFamily((8,))
    drawn = family.draw(jax.random.key(0))
    batch = family.batch(jax.random.key(1), drawn, family.data(), "validation")
    params = family.init(jax.random.key(2), drawn)

    grads = jax.grad(family.loss)(params, batch, drawn)

    assert 0.2 < float(jnp.var(batch.targets)) < 3.0
    assert all(bool(jnp.any(g != 0)) and bool(jnp.all(jnp.isfinite(g))) for g in grads.values())


def test_teaching_never_gets_worse_on_its_trials_and_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = teach._compile(CONFIG)
    monkeypatch.setattr(teach, "_compile", lambda config: compiled)

    teach.teach(CONFIG, tmp_path / "whole", 600.0, rounds=2)
    teach.teach(CONFIG, tmp_path / "legs", 600.0, rounds=1)
    teach.teach(CONFIG, tmp_path / "legs", 600.0, resume=True, rounds=2)

    like = zero_policy(teach.flagship(CONFIG))
    whole, done = load_checkpoint(tmp_path / "whole" / "checkpoint.npz", like)
    legs, _ = load_checkpoint(tmp_path / "legs" / "checkpoint.npz", like)
    assert done == 2
    jax.tree.map(np.testing.assert_array_equal, whole, legs)
    theta = teach.taught_theta(CONFIG, tmp_path / "whole")
    np.testing.assert_array_equal(theta.learned["decoder"]["out"]["w"], whole.weight)
    lines = (tmp_path / "whole" / "rounds.jsonl").read_text().splitlines()
    assert len(lines) == 2
    for report in map(json.loads, lines):
        assert report["costs"][report["chosen"]] == min(report["costs"].values())


def test_only_the_flagship_can_be_taught() -> None:
    with pytest.raises(ValueError, match="teaching is for mnemosyne, got lstm"):
        teach.flagship(RunConfig("x", optimizer={"kind": "lstm"}))


def test_what_tells_nets_apart_is_not_read() -> None:
    assert not any(name.startswith(("fan", "size", "rms", "log step")) for name in read_names())


def test_only_an_additive_memory_can_be_taught() -> None:
    with pytest.raises(ValueError, match="additive write rule, got delta"):
        scaffold(Mnemosyne(MnemosyneConfig(write_rule="delta")), jax.random.key(0))


def test_teaching_goes_on_from_exported_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = teach.flagship(CONFIG)
    width = optimizer.config.hidden
    policy = Policy(0.1 * jnp.arange(6.0 * width).reshape(width, 6), jnp.arange(6.0))
    theta = with_policy(teach.base_theta(CONFIG), policy, jnp.zeros(6))
    source = export(optimizer, theta, tmp_path / "mnemosyne" / "1", "1", {})

    jax.tree.map(np.testing.assert_array_equal, teach.taught_before(CONFIG, source), policy)

    monkeypatch.setattr(teach, "_compile", lambda config: [])
    teach.teach(CONFIG, tmp_path / "run", 600.0, rounds=0, source=source)
    assert not (tmp_path / "run" / "checkpoint.npz").exists()
    other = dataclasses.replace(CONFIG, seed=1)
    with pytest.raises(ValueError, match="by more than a map"):
        teach.taught_before(other, source)


def test_clean_tasks_are_mixtures_without_noise_and_within_their_numbers() -> None:
    family = MlpFamily((16,), min_examples=300, max_examples=700, clean=True)

    drawn = jax.vmap(family.draw)(jax.random.split(jax.random.key(0), 64))

    assert family.name == "clean_mlp_16"
    assert float(drawn.label_noise.max()) == 0.0
    assert {int(index) % 4 for index in drawn.dataset} == {2}
    assert len({int(index) for index in drawn.dataset}) > 5
    assert 300 <= float(drawn.train_examples.min()) < float(drawn.train_examples.max()) <= 700
