"""The second phase: evolution strategies on the step-size head, over whole runs.

A truncated meta-gradient sees one window, in which a smaller step size always helps a little. This
phase has no such bias: whole runs are judged, and antithetic perturbations of the decoder's row for
the log step size (a few dozen numbers) give a gradient of their cost. Tasks and batches are shared
by all perturbations of a generation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.config import RunConfig
from mnemosyne_metatrain.evaluation.runs import learned_run
from mnemosyne_metatrain.layout import Params
from mnemosyne_metatrain.optimizers.base import Theta, Tree
from mnemosyne_metatrain.tasks.base import Batch, Data, Split, TaskFamily
from mnemosyne_metatrain.training.checkpoint import load_checkpoint, save_checkpoint
from mnemosyne_metatrain.training.outer import Core, OuterStep
from mnemosyne_metatrain.training.trainer import init_population, outer_step

_FLOOR = 0.01
_WORST = 2.0
_DIFFERENCE_CLIP = 0.5


@dataclass(frozen=True)
class Evolution:
    """Numbers of the second phase.

    Attributes:
        pairs: Antithetic pairs of a generation.
        tasks: Tasks of a generation.
        sigma: Standard deviation of perturbations.
        rate: Step size of the Adam that follows the estimated gradient.
        segments: Length of a run, in segments.
        told_share: Share of generations that are told the horizon.
    """

    pairs: int = 16
    tasks: int = 12
    sigma: float = 0.03
    rate: float = 0.01
    segments: int = 16
    told_share: float = 0.25


@dataclass(frozen=True)
class DrawnTask:
    """One task of a family, with the draw held fixed."""

    family: TaskFamily
    drawn: Any

    def init(self, key: jax.Array, _: Any) -> Params:
        """Draws initial parameters."""
        return self.family.init(key, self.drawn)

    def batch(self, key: jax.Array, _: Any, data: Data, split: Split) -> Batch:
        """Draws a batch."""
        return self.family.batch(key, self.drawn, data, split)

    def loss(self, params: Params, batch: Batch, _: Any) -> jax.Array:
        """The loss of a batch."""
        return self.family.loss(params, batch, self.drawn)


def run_cost(last_loss: jax.Array, first_loss: jax.Array) -> jax.Array:
    """The cost of a run from its segments' losses [n]: the mean log loss, early segments first.

    Segment k has weight k^(-1/2), as if the horizon were not known.
    """
    ratio = jnp.log(last_loss / first_loss + _FLOOR)
    ratio = jnp.where(jnp.isfinite(ratio), jnp.minimum(ratio, _WORST), _WORST)
    weights = jnp.arange(1, last_loss.shape[0] + 1) ** -0.5
    return jnp.sum(weights * ratio) / jnp.sum(weights)


def head_of(learned: Tree) -> jax.Array:
    """The decoder's row for the log step size, its bias last, [hidden + 1]."""
    out = learned["decoder"]["out"]
    return jnp.append(out["w"][:, 0], out["b"][0])


def with_head(learned: Tree, head: jax.Array) -> Tree:
    """Puts that row back."""
    out = learned["decoder"]["out"]
    out = {"w": out["w"].at[:, 0].set(head[:-1]), "b": out["b"].at[0].set(head[-1])}
    return {**learned, "decoder": {**learned["decoder"], "out": out}}


def _generation_costs(
    step: OuterStep,
    plan: Evolution,
    data: Data,
    theta: Theta,
    heads: jax.Array,
    key: jax.Array,
    told: jax.Array,
) -> jax.Array:
    """Costs of all heads [2 pairs, hidden + 1] on the tasks of a key, [2 pairs, tasks]."""

    def cost(head: jax.Array, task_key: jax.Array) -> jax.Array:
        draw_key, batch_key, run_key = jax.random.split(task_key, 3)
        task: Any = DrawnTask(step.family, step.family.draw(draw_key))
        held = jax.tree.map(lambda x: x[None], task.batch(batch_key, None, data, "validation"))
        changed = Theta(with_head(theta.learned, head), theta.fixed)
        curves = learned_run(
            step.optimizer,
            step.layout,
            task,
            plan.segments,
            data,
            held,
            run_key,
            jnp.asarray(plan.segments),
            changed,
            told,
        )
        return run_cost(curves.last_loss, curves.first_loss)

    keys = jax.random.split(key, plan.tasks)
    return jax.vmap(jax.vmap(cost, in_axes=(None, 0)), in_axes=(0, None))(heads, keys)


def _compile(
    config: RunConfig, plan: Evolution, theta: Theta
) -> list[tuple[str, Callable[..., jax.Array], Any]]:
    """Compiles a generation of every family, side by side."""
    heads = jnp.tile(head_of(theta.learned), (2 * plan.pairs, 1))
    lowered = []
    for family in config.families:
        step = outer_step(config, family)
        data = jax.tree.map(jnp.asarray, step.family.data())
        run = jax.jit(partial(_generation_costs, step, plan))
        arguments = (data, theta, heads, jax.random.key(0), jnp.zeros(()))
        lowered.append((step.family.name, run.lower(*arguments), data))
    with ThreadPoolExecutor() as pool:
        programs = list(pool.map(lambda item: item[1].compile(), lowered))
    return [(name, run, data) for (name, _, data), run in zip(lowered, programs, strict=True)]


def evolve(
    config: RunConfig,
    variant: str,
    source: Path,
    target: Path,
    plan: Evolution,
    seconds: float,
    seed: int = 0,
) -> None:
    """Improves one variant of a run for a while, and saves the whole population with it.

    Args:
        config: The run's configuration.
        variant: Name of the variant.
        source: The run's folder.
        target: Folder for the result.
        plan: Numbers of this phase.
        seconds: How long, without compilation.
        seed: Of perturbations and tasks.
    """
    cores, iteration = load_checkpoint(source / "checkpoint.npz", init_population(config))
    index = [v.name for v in config.variants].index(variant)
    pick = partial(jax.tree.map, lambda x: x[index])
    theta = Theta(pick(cores.average), pick(cores.theta.fixed))
    programs = _compile(config, plan, theta)
    head = head_of(theta.learned)
    first, second, mean = jnp.zeros_like(head), jnp.zeros_like(head), head
    start, generation, log = time.time(), 0, []
    while time.time() - start < seconds:
        name, run, data = programs[generation % len(programs)]
        key = jax.random.fold_in(jax.random.key(seed + 1000), generation)
        noise_key, task_key, told_key = jax.random.split(key, 3)
        noise = jax.random.normal(noise_key, (plan.pairs, head.shape[0]))
        heads = head + plan.sigma * jnp.concatenate([noise, -noise])
        told = (jax.random.uniform(told_key) < plan.told_share).astype(jnp.float32)
        costs = run(data, theta, heads, task_key, told)
        up, down = costs[: plan.pairs], costs[plan.pairs :]
        difference = jnp.clip(up - down, -_DIFFERENCE_CLIP, _DIFFERENCE_CLIP).mean(axis=1)
        grad = difference @ noise / (jnp.std(difference) + 1e-8) / plan.pairs
        generation += 1
        first = 0.9 * first + 0.1 * grad
        second = 0.98 * second + 0.02 * grad**2
        direction = first / (1 - 0.9**generation)
        direction = direction / (jnp.sqrt(second / (1 - 0.98**generation)) + 1e-8)
        head = head - plan.rate * min(1.0, generation / 8) * direction
        mean = 0.95 * mean + 0.05 * head
        log.append((name, float(costs.mean())))
        if generation % 20 == 0:
            moved = float(jnp.linalg.norm(head - head_of(theta.learned)))
            recent = sum(c for _, c in log[-20:]) / 20
            line = f"generation {generation} cost {recent:.4f} moved {moved:.3f}"
            print(f"{line} bias {float(head[-1]):.3f} {time.time() - start:.0f} s", flush=True)
    learned = with_head(theta.learned, mean)
    _save(cores, index, learned, target, iteration)
    facts = {"generations": generation, "seconds": time.time() - start, "variant": variant}
    (target / "run.json").write_text(json.dumps(facts))


def _save(cores: Core, index: int, learned: Tree, target: Path, iteration: int) -> None:
    """Writes the population with one member's averaged weights replaced."""
    average = jax.tree.map(lambda all_, one: all_.at[index].set(one), cores.average, learned)
    save_checkpoint(target / "checkpoint.npz", cores._replace(average=average), iteration)
