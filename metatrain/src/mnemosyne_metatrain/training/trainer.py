"""The meta-training program: compiles a step for each family, and takes them in turn."""

from __future__ import annotations

import csv
import dataclasses
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
from mnemosyne_metatrain.layout import Layout
from mnemosyne_metatrain.optimizers.base import Optimizer
from mnemosyne_metatrain.optimizers.registry import make_family, make_optimizer
from mnemosyne_metatrain.training.checkpoint import load_checkpoint, save_checkpoint
from mnemosyne_metatrain.training.devices import everywhere, map_variants, split, variant_mesh
from mnemosyne_metatrain.training.outer import Core, OuterMetrics, OuterStep, init_core

CompiledStep = Callable[..., tuple[Core, Any, OuterMetrics]]
_REPORT_EVERY = 100
_TIMED_STEPS = 200


@dataclass
class Station:
    """A family in training: its compiled step, its tasks of all variants, and its data."""

    name: str
    step: CompiledStep
    tasks: Any
    data: Any


def init_population(config: RunConfig) -> Core:
    """Returns the cores of all variants, stacked, [P, ...]."""
    cores = []
    for variant in config.variants:
        theta = _variant_optimizer(config, variant).init_theta(jax.random.key(variant.seed))
        recipe = config.recipe.__class__(**{**config.recipe.__dict__, **variant.recipe})
        cores.append(init_core(theta, recipe.arrays()))
    stacked: Core = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cores)
    return stacked


def _variant_optimizer(config: RunConfig, variant: VariantConfig) -> Optimizer:
    return make_optimizer(config.optimizer, variant.knobs)


def outer_step(config: RunConfig, family: FamilyConfig) -> OuterStep:
    """Makes the outer step of one family."""
    optimizer = make_optimizer(config.optimizer)
    tasks = make_family(family)
    cell_size = int(config.optimizer.get("cell_size", 32))
    return OuterStep(
        optimizer=optimizer,
        family=tasks,
        layout=Layout(tasks.specs, cell_size, family.chunk_size),
        num_tasks=family.tasks or config.tasks,
        window=config.window,
        min_length=config.min_length,
        max_length=config.max_length,
        short_share=config.short_share,
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
        tasks = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (population, *x.shape)), step.no_tasks(data)
        )
        tasks = split(mesh, tasks)
        mapped = map_variants(mesh, step, (True, True, False, False, False, False))
        shared = everywhere(mesh, (jax.random.key(0), jnp.ones(()), jnp.zeros((), bool)))
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
        self, resume: bool = False, until: int | None = None, seconds: float | None = None
    ) -> Core:
        """Trains up to iteration `until`, which is the configured end by default.

        Args:
            resume: Whether to go on from the checkpoint.
            until: Where this leg ends, a multiple of `checkpoint_every`.
            seconds: If given, the number of iterations is set so that training, without
                compilation, takes about as long. It is printed, and is saved with the run.

        Returns:
            The cores of all variants.

        Raises:
            ValueError: If `until` is not at a checkpoint: the run would not go on as it was.
        """
        config = self.config
        if until is not None and until < config.iterations and until % config.checkpoint_every:
            raise ValueError("a leg ends at a multiple of checkpoint_every")
        end = config.iterations if until is None else min(until, config.iterations)
        self.folder.mkdir(parents=True, exist_ok=True)
        cores, first = init_population(config), 0
        if resume:
            cores, first = load_checkpoint(self.checkpoint_path, cores)
        mesh = variant_mesh(len(config.variants))
        cores = split(mesh, cores)
        stations = build_stations(config, cores)
        key = jax.random.key(config.seed)
        start, pending = time.time(), []
        with (self.folder / "metrics.csv").open("a" if resume else "w", newline="") as file:
            writer = csv.writer(file)
            if not resume:
                writer.writerow(["iteration", "family", "variant", *OuterMetrics._fields])
            iteration = first
            while iteration < end:
                # Every family meets its own first step after a checkpoint: its barrier is there.
                turn = iteration % config.checkpoint_every
                barrier = iteration - first < len(stations) or turn < len(stations)
                station = stations[iteration % len(stations)]
                cores, station.tasks, metrics = station.step(
                    cores,
                    station.tasks,
                    station.data,
                    *everywhere(
                        mesh,
                        (
                            jax.random.fold_in(key, iteration),
                            np.float32(rate_scale(config, iteration)),
                            np.bool_(barrier),
                        ),
                    ),
                )
                pending.append((iteration, station.name, metrics))
                done = iteration + 1
                if seconds is not None and done - first == _TIMED_STEPS:
                    metrics.meta_loss.block_until_ready()
                    rate = _TIMED_STEPS / (time.time() - start)
                    end = first + int(rate * seconds) // _REPORT_EVERY * _REPORT_EVERY
                    self.config = config = dataclasses.replace(config, iterations=end)
                    print(f"{end} iterations in all", flush=True)
                if done % _REPORT_EVERY == 0 or done == end:
                    self._report(writer, pending, done, start, first, end)
                    file.flush()
                    pending = []
                if done % config.checkpoint_every == 0 or done == end:
                    save_checkpoint(self.checkpoint_path, cores, done)
                iteration = done
        facts = {"iterations": end, "seconds": time.time() - start}
        (self.folder / "run.json").write_text(json.dumps(facts))
        return cores

    def _report(
        self, writer: Any, pending: list[Any], done: int, start: float, first: int, end: int
    ) -> None:
        """Writes the metrics of the last steps, and a line about progress."""
        losses, dropped = [], 0.0
        for iteration, family, metrics in pending:
            values = np.stack([np.asarray(x) for x in metrics], axis=-1)
            losses.append(values[:, 0])
            dropped += float(values[:, 4].sum())
            for variant, row in zip(self.config.variants, values, strict=True):
                writer.writerow([iteration, family, variant.name, *(f"{v:.6g}" for v in row)])
        rate = (done - first) / (time.time() - start)
        mean = " ".join(f"{x:.3f}" for x in np.mean(losses, axis=0))
        left = (end - done) / rate
        line = f"{done}/{end} {rate:.1f} it/s {left:.0f} s left dropped {dropped:.0f} loss {mean}"
        print(line, flush=True)
