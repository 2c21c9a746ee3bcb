"""Chooses what is shipped: a variant and its step-size knobs, on meta-validation alone.

A truncated meta-gradient prefers small steps. A knob of the weights undoes that without training: a
factor of the prior step sizes; older weights have another, of the log step size that the decoder
asks for. Every variant is judged with every setting, all in one compiled program, on whole runs.
"""

from __future__ import annotations

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

from mnemosyne_metatrain.config import load_config
from mnemosyne_metatrain.evaluation.judge import AGAINST, Plan, run_learned
from mnemosyne_metatrain.evaluation.metrics import compare
from mnemosyne_metatrain.evaluation.programs import lower_programs
from mnemosyne_metatrain.evaluation.records import Book, Journal
from mnemosyne_metatrain.evaluation.statistics import interquartile_mean
from mnemosyne_metatrain.evaluation.weights import Candidate
from mnemosyne_metatrain.export import export
from mnemosyne_metatrain.optimizers.base import Theta
from mnemosyne_metatrain.optimizers.registry import make_optimizer
from mnemosyne_metatrain.suite import VALIDATION
from mnemosyne_metatrain.training.checkpoint import load_checkpoint
from mnemosyne_metatrain.training.outer import Core
from mnemosyne_metatrain.training.trainer import init_population


@dataclass(frozen=True)
class Calibration:
    """What is tried and how it is scored.

    Attributes:
        factors: Of the prior step sizes.
        tempers: Of the log step size that the decoder asks for.
        horizons: Horizons whose loss ratios are averaged.
        seeds: Seeds.
    """

    factors: tuple[float, ...] = (1.0, 1.8, 3.2)
    tempers: tuple[float, ...] = (1.0,)
    horizons: tuple[int, ...] = (500, 2000)
    seeds: int = 2


def scaled(theta: Theta, factor: float, temper: float) -> Theta:
    """Returns weights with scaled knobs.

    Raises:
        ValueError: If a temper is asked for and the weights have none.
    """
    knobs = dict(theta.fixed["knobs"])
    for name in ("eta_matrix", "eta_vector"):
        knobs[name] = knobs[name] * factor
    if temper != 1.0:
        if "eta_temper" not in knobs:
            raise ValueError("these weights have no temper")
        knobs["eta_temper"] = knobs["eta_temper"] * temper
    return Theta(theta.learned, {**theta.fixed, "knobs": knobs})


def chosen_theta(cores: Core, index: int, factor: float, temper: float) -> Theta:
    """The averaged weights of one variant of a population, with scaled knobs."""
    average, fixed = jax.tree.map(lambda x: x[index], (cores.average, cores.theta.fixed))
    return scaled(Theta(average, fixed), factor, temper)


def score(book: Book, name: str, horizons: tuple[int, ...]) -> float:
    """The headline on meta-validation; less is better.

    That is the interquartile mean over tasks of the held-out loss over the tuned constant Adam's,
    averaged over horizons.
    """
    means = []
    for horizon in horizons:
        found = [compare(book, task, name, horizon, AGAINST["constant"]) for task in VALIDATION]
        means.append(interquartile_mean([min(c.ratio(), 10.0) for c in found if c is not None]))
    return float(np.mean(means))


def _judge(
    candidate: Candidate, plan: Plan, journal: Journal, wait: Callable[[], Candidate]
) -> None:
    """Compiles the runs of all tasks side by side, then runs the weights that `wait` returns."""
    device = jax.local_devices()[0]
    tasks = [make() for make in VALIDATION.values()]
    with ThreadPoolExecutor() as pool:
        compiling = [
            pool.submit(lower_programs(task, [candidate], plan.seeds, None, device)[0])
            for task in tasks
        ]
        final = wait()
        for future in compiling:
            run_learned(future.result(), [final], plan, journal)


def calibrate(
    config_path: Path, folder: Path, baselines: Path, out: Path, version: str, wait: bool
) -> list[tuple[float, str]]:
    """Judges all settings, and exports the best.

    Args:
        config_path: The run's configuration.
        folder: The run's folder.
        baselines: Records with Adam's runs of the same tasks, seeds and horizons.
        out: Folder of the exported weights, and of `calibration.json` and `calibration.jsonl`.
        version: Version of the weights.
        wait: Whether to compile first and then wait for the run to end.

    Returns:
        Scores and names, best first.
    """
    plan_ = Calibration()
    config = load_config(config_path)
    optimizer = make_optimizer(config.optimizer)
    settings = [
        (i, factor, temper)
        for i in range(len(config.variants))
        for factor in plan_.factors
        for temper in plan_.tempers
    ]
    names = tuple(f"{config.variants[i].name}/{f:g}/{t:g}" for i, f, t in settings)
    start = init_population(config)

    def candidate(cores: Any) -> Candidate:
        thetas = [chosen_theta(cores, *setting) for setting in settings]
        return Candidate(optimizer, names, jax.tree.map(lambda *x: jnp.stack(x), *thetas))

    def trained() -> Candidate:
        while wait and not (folder / "run.json").exists():
            time.sleep(0.5)
        return candidate(load_checkpoint(folder / "checkpoint.npz", start)[0])

    plan = Plan(horizons=plan_.horizons, seeds=plan_.seeds, baselines=False)
    journal = Journal(out / "calibration.jsonl")
    _judge(candidate(start), plan, journal, trained)
    book = Book.load([baselines, out / "calibration.jsonl"])
    ranking = sorted((score(book, name, plan_.horizons), name) for name in names)
    best = names.index(ranking[0][1])
    theta = jax.tree.map(lambda x: x[best], trained().thetas)
    facts = {"chosen": ranking[0][1], "run": config.name}
    export(optimizer, theta, out, version, facts)
    (out / "calibration.json").write_text(json.dumps({"ranking": ranking}))
    return ranking
