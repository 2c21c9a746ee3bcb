"""The meta-training program: compiles a step for each family, and takes them in turn."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnemosyne_metatrain.config import FamilyConfig, RunConfig, VariantConfig
from mnemosyne_metatrain.export import load
from mnemosyne_metatrain.layout import Layout, stored
from mnemosyne_metatrain.optimizers.base import Theta
from mnemosyne_metatrain.optimizers.registry import make_family, make_optimizer
from mnemosyne_metatrain.training.checkpoint import load_checkpoint, load_notes, save_checkpoint
from mnemosyne_metatrain.training.coin import CorrectionCoin
from mnemosyne_metatrain.training.devices import everywhere, map_variants, split, variant_mesh
from mnemosyne_metatrain.training.estimation import Correction, Estimation
from mnemosyne_metatrain.training.journal import Journal
from mnemosyne_metatrain.training.outer import Core, OuterMetrics, OuterStep, init_core
from mnemosyne_metatrain.training.subset import learned_mask, shut

CompiledStep = Callable[..., tuple[Core, Any, OuterMetrics]]
_ROUND = 100
_TIMED_STEPS = 200
# A leg stops unless the next checkpoint fits with this much of reserve.
_MARGIN = 1.2


@dataclass
class Station:
    """A family in training: its compiled step, its tasks of all variants, and its data."""

    name: str
    step: CompiledStep
    tasks: Any
    data: Any


def init_population(config: RunConfig) -> Core:
    """Returns the cores of all variants, stacked, [P, ...]."""
    base: Any = make_optimizer(config.optimizer)
    init = _compiled_init(base)
    cores = []
    for variant in config.variants:
        theta = _with_knobs(config, variant, _start(variant, init(jax.random.key(variant.seed))))
        mask = learned_mask(theta.learned, variant.learns)
        theta, mask = shut(base, theta, mask, variant.shut)
        recipe = config.recipe.__class__(**{**config.recipe.__dict__, **variant.recipe})
        cores.append(init_core(theta, recipe.arrays(), mask))
    stacked: Core = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cores)
    return stacked


@functools.cache
def _compiled_init(optimizer: Any) -> Callable[[jax.Array], Theta]:
    """Drawing weights, as one program: by itself, every small operation is compiled alone."""
    return jax.jit(optimizer.init_theta)


def _start(variant: VariantConfig, drawn: Theta) -> Theta:
    """The weights that a variant starts from: as drawn, or those that it names.

    Raises:
        ValueError: If they are not of the run's sizes.
    """
    if not variant.source:
        return drawn
    found = load(Path(variant.source))[1]
    shapes = [jax.tree.map(lambda x: x.shape, theta) for theta in (drawn, found)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{variant.source} has other sizes than the run")
    return found


def _with_knobs(config: RunConfig, variant: VariantConfig, theta: Theta) -> Theta:
    """Returns weights with the knobs of a variant."""
    optimizer: Any = make_optimizer(config.optimizer, variant.knobs)
    if "knobs" not in theta.fixed:
        return theta
    return Theta(theta.learned, {**theta.fixed, "knobs": optimizer.config.knobs.arrays()})


def estimation(config: RunConfig) -> Estimation:
    """The estimator that a run names."""
    numbers = (config.pes_sigma, config.ufom_cost, config.ufom_minimum)
    return Estimation(config.estimator, *numbers)


def outer_step(config: RunConfig, family: FamilyConfig) -> OuterStep:
    """Makes the outer step of one family."""
    optimizer = make_optimizer(config.optimizer)
    tasks = make_family(family)
    cell_size = int(config.optimizer.get("cell_size", 32))
    return OuterStep(
        optimizer=optimizer,
        family=tasks,
        layout=Layout(stored(tasks.specs, family.transposed), cell_size, family.chunk_size),
        num_tasks=family.tasks or config.tasks,
        window=config.window,
        min_length=config.min_length,
        max_length=config.max_length,
        short_share=config.short_share,
        estimation=estimation(config),
        keeps_products=config.keeps_products,
    )


def build_stations(config: RunConfig, cores: Core) -> list[Station]:
    """Traces every family's step, compiles them side by side, and makes places for tasks.

    The population is spread over the devices that there are; `cores` has to be, too.
    """
    population = len(config.variants)
    mesh = variant_mesh(population)

    def trace(family: FamilyConfig) -> tuple[str, Any, Any, Any]:
        step = outer_step(config, family)
        data = everywhere(mesh, jax.tree.map(jnp.asarray, step.family.data()))
        learned = jax.eval_shape(lambda c: jax.tree.map(lambda x: x[0], c.theta.learned), cores)
        tasks = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (population, *x.shape)), step.no_tasks(data, learned)
        )
        tasks = split(mesh, tasks)
        mapped = map_variants(mesh, step, (True, True, False, False, False, False, False))
        flag, one = jnp.zeros((), bool), jnp.ones(())
        shared = everywhere(mesh, (jax.random.key(0), one, flag, Correction(flag, one)))
        lowered = jax.jit(mapped, donate_argnums=(0, 1)).lower(cores, tasks, data, *shared)
        return step.family.name, lowered, tasks, data

    start = time.time()
    traced = [trace(family) for family in config.families]
    print(f"traced {len(traced)} families in {time.time() - start:.1f} s", flush=True)
    start = time.time()
    with ThreadPoolExecutor() as pool:
        compiled = list(pool.map(lambda item: item[1].compile(), traced))
    print(f"compiled {len(traced)} families in {time.time() - start:.1f} s", flush=True)
    return [
        Station(name, step, tasks, data)
        for (name, _, tasks, data), step in zip(traced, compiled, strict=True)
    ]


def rate_scale(config: RunConfig, iteration: int) -> float:
    """The outer rate's schedule: linear warm-up, then half a cosine."""
    warm = min(1.0, (iteration + 1) / max(config.warmup, 1))
    fraction = min(iteration / max(config.iterations, 1), 1.0)
    cosine = 0.5 * (1.0 + np.cos(np.pi * fraction))
    return float(warm * (config.final_rate + (1.0 - config.final_rate) * cosine))


@dataclass
class Leg:
    """The time that a leg has, and when it has to stop.

    Attributes:
        limit: Seconds from its start, compilation included; None is no limit.
        start: When it started.
        saved: When the last checkpoint was written, or training began.
    """

    limit: float | None
    start: float = dataclasses.field(default_factory=time.time)
    saved: float = 0.0

    def is_over(self) -> bool:
        """Whether the next checkpoint would come too late; call it at a checkpoint."""
        now = time.time()
        interval, self.saved = now - self.saved, now
        return self.limit is not None and now - self.start + _MARGIN * interval > self.limit


@dataclass
class Trainer:
    """A run of meta-training that can stop at any checkpoint and go on with the same bits.

    At a checkpoint all tasks are redrawn, in a run that stops there and in one that goes on: the
    weights and their moments are then all that there is to save.
    """

    config: RunConfig
    folder: Path

    @property
    def checkpoint_path(self) -> Path:
        """Where the checkpoint is."""
        return self.folder / "checkpoint.npz"

    def run(
        self,
        resume: bool = False,
        until: int | None = None,
        seconds: float | None = None,
        minutes: float | None = None,
    ) -> Core:
        """Trains up to iteration `until`, which is the configured end by default.

        Args:
            resume: Whether to go on from the checkpoint.
            until: Where this leg ends, a multiple of `checkpoint_every`.
            seconds: If given, the number of iterations is set so that training, without
                compilation, takes about as long. It is printed, and is saved with the run.
            minutes: If given, the leg stops at the last checkpoint that is within this time, with
                compilation; at the first one in any case.

        Returns:
            The cores of all variants.

        Raises:
            ValueError: If `until` is not at a checkpoint, or there is none for `minutes`: the run
                would not go on as it was.
        """
        config = self.config
        leg = Leg(None if minutes is None else 60.0 * minutes)
        if until is not None and until < config.iterations and until % config.checkpoint_every:
            every = config.checkpoint_every
            raise ValueError(f"a leg ends at a multiple of checkpoint_every, {every}: not {until}")
        if minutes is not None and config.checkpoint_every >= config.iterations:
            every = config.checkpoint_every
            raise ValueError(
                f"a leg of some minutes needs a checkpoint_every ({every}) below iterations "
                f"({config.iterations})"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        cores, first = init_population(config), 0
        notes: dict[str, Any] = {}
        if resume:
            cores, first = load_checkpoint(self.checkpoint_path, cores)
            notes = load_notes(self.checkpoint_path)
            if seconds is None and "iterations" in notes:
                config = dataclasses.replace(config, iterations=int(notes["iterations"]))
        end = config.iterations if until is None else min(until, config.iterations)
        if resume and seconds is None and first >= end:
            print(f"iteration {first} of {end}: nothing is left to do")
            return cores
        before = float(notes.get("seconds", 0.0))
        mesh = variant_mesh(len(config.variants))
        cores = split(mesh, cores)
        stations = build_stations(config, cores)
        coin = CorrectionCoin(estimation(config), mesh, notes)
        key = jax.random.key(config.seed)
        names = [variant.name for variant in config.variants]
        journal = Journal(self.folder / "metrics.csv", names, first)
        start = leg.saved = time.time()
        done = first
        while done < end:
            # Every family meets its own first step after a checkpoint: its barrier is there.
            turn = done % config.checkpoint_every
            barrier = done - first < len(stations) or turn < len(stations)
            station = stations[done % len(stations)]
            step_key = jax.random.fold_in(key, done)
            scale, flag = np.float32(rate_scale(config, done)), np.bool_(barrier)
            shared = everywhere(mesh, (step_key, scale, flag, coin.draw(step_key)))
            cores, station.tasks, metrics = station.step(
                cores, station.tasks, station.data, *shared
            )
            coin.absorb(metrics)
            journal.add(done, station.name, metrics)
            done += 1
            if seconds is not None and done - first == _TIMED_STEPS:
                metrics.meta_loss.block_until_ready()
                end = first + int(journal.rate(done) * seconds) // _ROUND * _ROUND
                config = dataclasses.replace(config, iterations=end)
                notes["iterations"] = end
                print(f"{end} iterations in all", flush=True)
            if journal.is_due(done) or done == end:
                journal.report(done, end)
            if done % config.checkpoint_every == 0 or done == end:
                metrics.meta_loss.block_until_ready()
                notes["seconds"] = before + time.time() - start
                save_checkpoint(self.checkpoint_path, cores, done, {**notes, **coin.notes()})
                if leg.is_over():
                    break
        journal.report(done, end)
        journal.close()
        facts = {
            "iterations": done,
            "planned": config.iterations,
            "seconds": before + time.time() - start,
            "devices": mesh.size,
        }
        (self.folder / "run.json").write_text(json.dumps(facts))
        return cores
