"""Teaches the decoder's last map: push its decisions, see what that does to whole runs, solve.

A round draws tasks of all families. Each is run once as it is and in antithetic pairs of random
pushes, one push for every output and phase of the run. Solving gives a change of the map
(`solve.py`). How far to go, and with how much ridge, is then tried on fresh tasks: the best of the
candidates, the map before and the zero map among them, is the next round's.

Unlike evolution strategies on the weights themselves this sees the outputs, of which there are six
a phase, and knows what was read when: a pair of runs teaches every weight that read something.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnemosyne_metatrain.config import FamilyConfig, RunConfig
from mnemosyne_metatrain.export import load, optimizer_table
from mnemosyne_metatrain.layout import Layout, stored
from mnemosyne_metatrain.optimizers.base import Theta
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne
from mnemosyne_metatrain.optimizers.registry import make_family, make_optimizer
from mnemosyne_metatrain.training.checkpoint import load_checkpoint, load_notes, save_checkpoint
from mnemosyne_metatrain.training.devices import everywhere, map_variants, split, variant_mesh
from mnemosyne_metatrain.training.teaching import solve
from mnemosyne_metatrain.training.teaching.runs import PushedRuns, phase_of_segment
from mnemosyne_metatrain.training.teaching.scaffold import (
    NUM_OUTPUTS,
    Policy,
    scaffold,
    used_units,
    with_policy,
    zero_policy,
)

_STEPS = (0.25, 0.5, 0.75, 1.0, 1.4)
_BIAS_STEPS = (0.5, 1.0)


class Classroom(NamedTuple):
    """One family, compiled.

    Attributes:
        name: Of the family.
        tasks: Tasks of a round.
        program: (policies, pushes [T, M, P, 6], keys [T], data) to costs [T, M] and features.
        data: Of the family.
    """

    name: str
    tasks: int
    program: Any
    data: Any


class Candidate(NamedTuple):
    """A map that is tried."""

    label: str
    policy: Policy


class Learned(NamedTuple):
    """What earlier rounds have taught.

    Attributes:
        system: The equations of all of them.
        moved: How the map has changed since they were written, in push units.
    """

    system: solve.Equations
    moved: solve.Array


def flagship(config: RunConfig) -> Mnemosyne:
    """The optimizer of a configuration.

    Raises:
        ValueError: If it is of another kind: only the flagship's decoder can be taught.
    """
    optimizer = make_optimizer(config.optimizer)
    if not isinstance(optimizer, Mnemosyne):
        raise ValueError(f"teaching is for mnemosyne, got {optimizer.name}")
    return optimizer


def base_theta(config: RunConfig) -> Theta:
    """The weights that a configuration starts from, with a zero last map."""
    return scaffold(flagship(config), jax.random.key(config.seed))


def taught_theta(config: RunConfig, folder: Path) -> Theta:
    """The weights that teaching in a folder has come to."""
    policy, _ = load_checkpoint(folder / "checkpoint.npz", zero_policy(flagship(config)))
    return with_policy(base_theta(config), policy, jnp.zeros(NUM_OUTPUTS))


def num_members(config: RunConfig) -> int:
    """Runs of a task at once: one as it is, and the pairs."""
    return 1 + 2 * config.teaching.pairs


def taught_before(config: RunConfig, source: Path) -> Policy:
    """The last map of exported weights, for teaching to go on from.

    Raises:
        ValueError: If they are of other sizes than the configuration's, or of other fixed parts.
    """
    optimizer, theta = load(source)
    mine = base_theta(config)
    if optimizer_table(optimizer) != optimizer_table(flagship(config)):
        raise ValueError(f"{source} is of another optimizer than {config.name}")
    out = theta.learned["decoder"]["out"]
    policy = Policy(out["w"], out["b"])
    same = with_policy(mine, policy, jnp.zeros(NUM_OUTPUTS))
    pairs = zip(jax.tree.leaves(same), jax.tree.leaves(theta), strict=True)
    if not all(np.allclose(a, b, atol=1e-6) for a, b in pairs):
        raise ValueError(f"{source} differs from what {config.name} starts from by more than a map")
    return policy


def teach(
    config: RunConfig,
    out: Path,
    seconds: float,
    resume: bool = False,
    rounds: int | None = None,
    source: Path | None = None,
) -> None:
    """Teaches for a while; writes `checkpoint.npz`, `policy<n>.npz` and `rounds.jsonl`.

    Args:
        config: The run's configuration.
        out: The run's folder.
        seconds: No round begins after these, without compilation.
        resume: Whether to go on from the run's checkpoint; a round has the same bits then.
        rounds: Last round, if it comes before the time is over.
        source: Exported weights that the first round starts from; none is a zero map.

    Raises:
        ValueError: If the optimizer is not the flagship, or too narrow.
    """
    policy, done = zero_policy(flagship(config)), 0
    learned: Learned | None = None
    if source is not None:
        policy = taught_before(config, source)
    if resume:
        policy, done = load_checkpoint(out / "checkpoint.npz", policy)
        learned = _learned(load_notes(out / "checkpoint.npz"))
    start = time.time()
    classes = _compile(config)
    print(f"compiled {len(classes)} families in {time.time() - start:.1f} s", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    start = time.time()
    while time.time() - start < seconds and done != rounds:
        seed = config.seed + config.teaching.seed + 2000
        key = jax.random.fold_in(jax.random.key(seed), done)
        policy, learned, report = _round(config, classes, policy, learned, key)
        done += 1
        report = {"round": done, "seconds": round(time.time() - start, 1), **report}
        save_checkpoint(out / "checkpoint.npz", policy, done, _notes(learned))
        save_checkpoint(out / f"policy{done}.npz", policy, done)
        with (out / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(report) + "\n")
        print(json.dumps(report), flush=True)


def _compile(config: RunConfig) -> list[Classroom]:
    """Compiles all families side by side."""
    optimizer, theta, plan = flagship(config), base_theta(config), config.teaching
    members, phases = num_members(config), len(plan.phase_starts) + 1
    policies = _stack([zero_policy(optimizer)] * members)

    def lower(family: FamilyConfig) -> tuple[str, int, Any, Any]:
        tasks = make_family(family)
        specs = stored(tasks.specs, family.transposed)
        layout = Layout(specs, optimizer.config.cell_size, family.chunk_size)
        count = family.tasks or config.tasks
        mesh = variant_mesh(count)
        data = everywhere(mesh, jax.tree.map(jnp.asarray, tasks.data()))
        keys = split(mesh, jax.random.split(jax.random.key(0), count))
        pushes = split(mesh, jnp.zeros((count, members, phases, NUM_OUTPUTS)))
        runs = PushedRuns(theta, optimizer, tasks, layout, plan)
        mapped = map_variants(mesh, runs, (False, True, True, False))
        shared = everywhere(mesh, policies)
        return tasks.name, count, jax.jit(mapped).lower(shared, pushes, keys, data), data

    lowered = [lower(family) for family in config.families]
    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(lambda item: item[2].compile(), lowered))
    return [
        Classroom(name, count, program, data)
        for (name, count, _, data), program in zip(lowered, programs, strict=True)
    ]


def _notes(learned: Learned) -> dict[str, Any]:
    """What is learned as arrays by name."""
    return {**learned.system._asdict(), "moved": learned.moved}


def _learned(notes: dict[str, Any]) -> Learned | None:
    """What `_notes` has written; None in a checkpoint that has none."""
    if "moved" not in notes:
        return None
    system = {name: notes[name] for name in solve.Equations._fields}
    system["phases"] = int(system["phases"])
    return Learned(solve.Equations(**system), notes["moved"])


def _round(
    config: RunConfig,
    classes: list[Classroom],
    policy: Policy,
    learned: Learned | None,
    key: jax.Array,
) -> tuple[Policy, Learned, dict[str, Any]]:
    """One round: the next policy, what has been learned, and what to report."""
    lesson_key, trial_key = jax.random.split(key)
    lessons = _lessons(config, classes, policy, lesson_key)
    curvature = solve.curvatures(lessons)
    system = solve.equations(lessons, curvature)
    if learned is not None and config.teaching.memory > 0.0:
        system = solve.combined(learned.system, learned.moved, config.teaching.memory, system)
    candidates = _candidates(config, policy, system)
    costs = _try(config, classes, candidates, trial_key)
    means = {name: values.mean(axis=0) for name, values in costs.items()}
    overall = np.mean(list(means.values()), axis=0)
    best = int(np.argmin(overall))
    before = 0
    difference = {name: value[best] - value[before] for name, value in means.items()}
    from_zero = {name: value[best] - value[1] for name, value in means.items()}
    report: dict[str, Any] = {
        "chosen": candidates[best].label,
        "costs": {c.label: round(float(v), 4) for c, v in zip(candidates, overall, strict=False)},
        "gain": {name: round(float(value), 4) for name, value in difference.items()},
        "gain_over_zero": {name: round(float(value), 4) for name, value in from_zero.items()},
        "bias": [round(float(x), 3) for x in candidates[best].policy.bias],
        "curvature": [round(float(x), 4) for x in np.trace(curvature, axis1=1, axis2=2)],
    }
    chosen = candidates[best].policy
    moved = _in_pushes(config, chosen, policy)
    report["promised"] = round(solve.predicted_gain(lessons, curvature, moved), 4)
    return chosen, Learned(system, moved), report


def _in_pushes(config: RunConfig, to: Policy, start: Policy) -> solve.Array:
    """The change from one map to another, biases last, in push units, [F, 6]."""
    rows = [np.asarray(a, float) - np.asarray(b, float) for a, b in zip(to, start, strict=True)]
    scale = np.asarray(config.teaching.sigmas, float)
    change: solve.Array = np.concatenate([rows[0], rows[1][None]]) / scale
    return change


def _lessons(
    config: RunConfig, classes: list[Classroom], policy: Policy, key: jax.Array
) -> list[solve.Lessons]:
    """Runs pushed runs of all families."""
    plan = config.teaching
    phases = phase_of_segment(plan)
    policies = _stack([policy] * num_members(config))
    scale = jnp.asarray(plan.sigmas)
    result = []
    for index, room in enumerate(classes):
        task_key, push_key = jax.random.split(jax.random.fold_in(key, index))
        shape = (room.tasks, plan.pairs, len(plan.phase_starts) + 1, NUM_OUTPUTS)
        pushes = jax.random.normal(push_key, shape)
        zero = jnp.zeros((room.tasks, 1, *shape[2:]))
        every = scale * jnp.concatenate([zero, pushes, -pushes], axis=1)
        costs, features = _run(room, policies, every, task_key)
        ones = np.ones((*features.shape[:-1], 1))
        features = np.concatenate([features, ones], axis=-1)
        result.append(solve.learn(costs, np.asarray(pushes, float), features, phases, plan.squash))
    return result


def _candidates(config: RunConfig, policy: Policy, system: solve.Equations) -> list[Candidate]:
    """The policy as it is, the zero one, and steps along changes of several ridges."""
    plan = config.teaching
    scale = np.asarray(plan.sigmas)
    mask = np.append(used_units(flagship(config)), True)
    result = [Candidate("before", policy), Candidate("zero", zero_policy(flagship(config)))]
    only_bias = np.zeros_like(mask)
    only_bias[-1] = True
    bias = solve.best_change(system, only_bias, 0.0)
    changes: list[tuple[str, solve.Array, tuple[float, ...]]] = [("bias", bias, _BIAS_STEPS)]
    for ridge in plan.ridges:
        changes.append((f"{ridge:g}", solve.best_change(system, mask, ridge), _STEPS))
    for label, change, steps in changes:
        for step in steps:
            moved = step * change * scale
            weight = policy.weight + jnp.asarray(moved[:-1], jnp.float32)
            result.append(
                Candidate(
                    f"{label} x {step:g}",
                    Policy(weight, policy.bias + jnp.asarray(moved[-1], jnp.float32)),
                )
            )
    return result[: num_members(config)]


def _try(
    config: RunConfig, classes: list[Classroom], candidates: list[Candidate], key: jax.Array
) -> dict[str, solve.Array]:
    """Costs of candidates on fresh tasks, [T, candidates], by family."""
    members = num_members(config)
    padded = [c.policy for c in candidates] + [candidates[0].policy] * (members - len(candidates))
    policies = _stack(padded)
    result = {}
    for index, room in enumerate(classes):
        shape = (room.tasks, members, len(config.teaching.phase_starts) + 1, NUM_OUTPUTS)
        costs, _ = _run(room, policies, jnp.zeros(shape), jax.random.fold_in(key, index))
        result[room.name] = costs[:, : len(candidates)]
    return result


def _run(
    room: Classroom, policies: Policy, pushes: jax.Array, key: jax.Array
) -> tuple[solve.Array, solve.Array]:
    """Costs [T, M] and features [T, segments, chunks, hidden] of a family's runs."""
    mesh = variant_mesh(room.tasks)
    keys = split(mesh, jax.random.split(key, room.tasks))
    costs, features = room.program(everywhere(mesh, policies), split(mesh, pushes), keys, room.data)
    return np.asarray(costs, float), np.asarray(features, float)


def _stack(policies: list[Policy]) -> Policy:
    """Policies side by side, [M, ...]."""
    stacked: Policy = jax.tree.map(lambda *x: jnp.stack(x), *policies)
    return stacked
