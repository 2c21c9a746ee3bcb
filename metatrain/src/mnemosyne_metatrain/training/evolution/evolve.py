"""Evolution strategies: antithetic perturbations of a theta, judged by whole runs.

A truncated meta-gradient sees one window, in which a smaller step size always helps a little. Here
whole runs are judged, so there is no such bias, and nothing has to be differentiated. All members
of a generation train the same tasks from the same parameters on the same batches: what differs
between their costs is what their perturbations do.

    G = sum_p squash(cost(x + sigma e_p) - cost(x - sigma e_p)) e_p / (2 sigma pairs)

Several seeds evolve side by side in one program, each with its own weights and perturbations.

Source: arXiv 1703.03864 (evolution strategies), with common random numbers.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnemosyne_metatrain.config import FamilyConfig, RunConfig
from mnemosyne_metatrain.layout import Layout, stored
from mnemosyne_metatrain.optimizers.base import Optimizer, Theta
from mnemosyne_metatrain.optimizers.registry import make_family, make_optimizer
from mnemosyne_metatrain.training.checkpoint import load_checkpoint, save_checkpoint
from mnemosyne_metatrain.training.devices import everywhere, map_variants, split, variant_mesh
from mnemosyne_metatrain.training.evolution.cost import RunCost
from mnemosyne_metatrain.training.evolution.space import SearchSpace

_BETA1, _BETA2 = 0.9, 0.95
_REPORT_EVERY = 20

Program = Callable[..., jax.Array]


class Search(NamedTuple):
    """State of the search; leaves have a leading axis of seeds, [S, ...].

    Attributes:
        theta: Weights at the start, from which what is not searched is taken.
        center: The point x, [S, n].
        first: First moments of the estimated gradient.
        second: Second moments.
        average: Running mean of the center, which is what is exported.
    """

    theta: Theta
    center: jax.Array
    first: jax.Array
    second: jax.Array
    average: jax.Array


def search_space(config: RunConfig) -> SearchSpace:
    """The space that a configuration describes."""
    return SearchSpace(dict(config.evolution.learned), dict(config.evolution.knobs))


def begin(config: RunConfig, thetas: Theta | None = None) -> Search:
    """Starts a search from given weights [S, ...], or from fresh ones of every seed."""
    optimizer = make_optimizer(config.optimizer)
    if thetas is None:
        keys = jax.vmap(jax.random.key)(jnp.arange(config.evolution.seeds) + config.seed)
        thetas = jax.vmap(optimizer.init_theta)(keys)
    center = jax.vmap(search_space(config).vector)(thetas)
    zeros = jnp.zeros_like(center)
    return Search(thetas, center, zeros, zeros, center)


def current_thetas(config: RunConfig, search: Search) -> Theta:
    """The averaged weights of all seeds, [S, ...]."""
    thetas: Theta = jax.vmap(search_space(config).theta)(search.theta, search.average)
    return thetas


def make_cost(config: RunConfig, optimizer: Optimizer, family: FamilyConfig) -> RunCost:
    """The cost of runs on one family."""
    tasks, plan = make_family(family), config.evolution
    specs = stored(tasks.specs, family.transposed)
    return RunCost(
        optimizer=optimizer,
        family=tasks,
        layout=Layout(specs, int(config.optimizer.get("cell_size", 32)), family.chunk_size),
        segments=plan.segments,
        segment=plan.segment,
        floor=plan.floor,
        mean_weight=plan.mean_weight,
        told_share=plan.told_share,
    )


def _member_costs(
    space: SearchSpace, cost: RunCost, theta: Theta, point: jax.Array, keys: jax.Array, data: Any
) -> jax.Array:
    """Costs of one point [n] on the tasks of keys [B], [B]."""
    member = space.theta(theta, point)
    return jax.vmap(lambda key: cost(member, key, data))(keys)


def _compile(config: RunConfig, thetas: Theta, points: jax.Array) -> list[tuple[str, Program, Any]]:
    """Compiles a generation on every family, side by side: (name, program, data)."""
    optimizer, space = make_optimizer(config.optimizer), search_space(config)
    mesh = variant_mesh(points.shape[0])

    def lower(family: FamilyConfig) -> tuple[str, Any, Any]:
        cost = make_cost(config, optimizer, family)
        data = everywhere(mesh, jax.tree.map(jnp.asarray, cost.family.data()))
        keys = everywhere(mesh, jax.random.split(jax.random.key(0), family.tasks or config.tasks))
        run = map_variants(mesh, partial(_member_costs, space, cost), (True, True, False, False))
        return cost.family.name, jax.jit(run).lower(thetas, points, keys, data), data

    lowered = [lower(family) for family in config.families]
    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(lambda item: item[1].compile(), lowered))
    return [(name, run, data) for (name, _, data), run in zip(lowered, programs, strict=True)]


def squash(x: np.ndarray[Any, Any], limit: float) -> np.ndarray[Any, Any]:
    """Bounds differences of cost smoothly: a task that one member ruins does not rule the rest."""
    return limit * np.tanh(x / limit)


def estimate(noise: jax.Array, costs: np.ndarray[Any, Any], limit: float) -> jax.Array:
    """The estimated gradient over sigma, [S, n], from noise [S, P, n] and costs [S, 2P, B]."""
    pairs = noise.shape[1]
    difference = squash(costs[:, :pairs] - costs[:, pairs:], limit).mean(axis=-1)
    difference = difference / (difference.std(axis=1, keepdims=True) + 1e-8)
    return jnp.einsum("sp,spn->sn", jnp.asarray(difference, jnp.float32), noise) / pairs


def advance(search: Search, gradient: jax.Array, rate: float, generation: int) -> Search:
    """Takes a step of Adam on every seed's center."""
    first = _BETA1 * search.first + (1 - _BETA1) * gradient
    # One second moment for all numbers: their scales are given, and single ones are mostly noise.
    square = jnp.mean(gradient**2, axis=1, keepdims=True) * jnp.ones_like(gradient)
    second = _BETA2 * search.second + (1 - _BETA2) * square
    root = jnp.sqrt(second / (1 - _BETA2 ** (generation + 1)))
    center = search.center - rate * first / (1 - _BETA1 ** (generation + 1)) / (root + 1e-8)
    blend = min(0.96, (generation + 1) / (generation + 10))
    average = blend * search.average + (1 - blend) * center
    return Search(search.theta, center, first, second, average)


def evolve(
    config: RunConfig,
    out: Path,
    seconds: float,
    source: Path | None = None,
    resume: bool = False,
    until: int | None = None,
) -> None:
    """Evolves for a while; writes `checkpoint.npz`, `metrics.csv` and `run.json`.

    Args:
        config: The run's configuration.
        out: The run's folder.
        seconds: How long, without compilation.
        source: Checkpoint of an evolution to start from; what both search is taken over.
        resume: Whether to go on from the run's own checkpoint.
        until: Last generation, if it comes before the time is over.
    """
    plan = config.evolution
    search, generation = begin(config), 0
    if resume:
        search, generation = load_checkpoint(out / "checkpoint.npz", search)
    elif source is not None:
        search = begin(config, load_thetas(config, source))
    seeds, width = search.center.shape
    mesh = variant_mesh(seeds * 2 * plan.pairs)
    members = jax.tree.map(lambda x: jnp.repeat(x, 2 * plan.pairs, axis=0), search.theta)
    members = split(mesh, members)
    start = time.time()
    programs = _compile(config, members, _points(mesh, search.center[:, None], plan.pairs, None))
    compiled = time.time() - start
    print(f"compiled {len(programs)} families in {compiled:.1f} s", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    start, recent = time.time(), []
    with (out / "metrics.csv").open("a" if resume else "w", newline="") as file:
        log = csv.writer(file)
        while (spent := time.time() - start) < seconds and generation != until:
            which = generation % len(programs)
            name, program, data = programs[which]
            key = jax.random.fold_in(jax.random.key(config.seed + 1000), generation)
            noise_key, task_key = jax.random.split(key)
            noise = jax.random.normal(noise_key, (seeds, plan.pairs, width))
            points = _points(mesh, search.center[:, None], plan.pairs, plan.sigma * noise)
            count = config.families[which].tasks or config.tasks
            keys = everywhere(mesh, jax.random.split(task_key, count))
            costs = np.asarray(program(members, points, keys, data))
            costs = costs.reshape(seeds, 2 * plan.pairs, count)
            gradient = estimate(noise, costs, plan.squash)
            left = 1.0 - max(spent / seconds, generation / until if until else 0.0)
            rate = plan.rate * min(1.0, (generation + 1) / plan.warmup) * (0.1 + 0.9 * left)
            search = advance(search, gradient, rate, generation)
            generation += 1
            mean = costs.mean(axis=(1, 2))
            recent.append(mean)
            log.writerow([generation, name, f"{spent:.2f}", *np.round(mean, 5)])
            if generation % _REPORT_EVERY == 0:
                shown = np.round(np.mean(recent[-_REPORT_EVERY:], axis=0), 4)
                print(f"generation {generation} cost {shown} {spent:.0f} s", flush=True)
    save_checkpoint(out / "checkpoint.npz", search, generation)
    facts = {
        "generations": generation,
        "seconds": time.time() - start,
        "compile_seconds": compiled,
        "plan": dataclasses.asdict(plan),
    }
    (out / "run.json").write_text(json.dumps(facts, indent=1))


def _points(mesh: Any, center: jax.Array, pairs: int, offsets: jax.Array | None) -> jax.Array:
    """All members' points on their devices, [S 2P, n], each seed's first half plus its second."""
    if offsets is None:
        offsets = jnp.zeros((center.shape[0], pairs, center.shape[2]))
    both = jnp.concatenate([center + offsets, center - offsets], axis=1)
    return split(mesh, both.reshape(-1, center.shape[2]))


def load_thetas(config: RunConfig, folder: Path) -> Theta:
    """The weights that an evolution ended with, [S, ...]."""
    search, _ = load_checkpoint(folder / "checkpoint.npz", begin(config))
    return current_thetas(config, search)
