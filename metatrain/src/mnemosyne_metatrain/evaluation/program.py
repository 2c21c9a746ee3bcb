"""The program `evaluate`: judges the population of a run on a suite, and writes records."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from mnemosyne_metatrain.config import RunConfig, load_config
from mnemosyne_metatrain.evaluation.grid import Grid
from mnemosyne_metatrain.evaluation.judge import Candidate, Judge, Plan, Record
from mnemosyne_metatrain.evaluation.metrics import (
    interquartile_mean,
    loss_ratio,
    speed_up,
)
from mnemosyne_metatrain.export import load
from mnemosyne_metatrain.optimizers.base import Theta
from mnemosyne_metatrain.optimizers.registry import make_optimizer
from mnemosyne_metatrain.suite import TEST, VALIDATION
from mnemosyne_metatrain.training.checkpoint import load_checkpoint
from mnemosyne_metatrain.training.trainer import init_population

SCHEDULES = {"constant": ("constant",), "best": ("constant", "cosine")}


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        config: The run's configuration.
        folder: The run's folder, with its checkpoint, or an exported file; None is the start of
            meta-training.
        only: Names of the variants that are judged; all if empty.
    """

    config: Path
    folder: Path | None
    only: tuple[str, ...] = ()

    @property
    def is_exported(self) -> bool:
        """Whether the weights come from an exported file."""
        return self.folder is not None and self.folder.suffix == ".safetensors"

    @property
    def is_ready(self) -> bool:
        """Whether there is something to judge."""
        if self.folder is None or self.is_exported:
            return self.folder is None or self.folder.exists()
        return (self.folder / "run.json").exists()

    def candidate(self, trained: bool) -> Candidate:
        """Returns the averaged weights, or those at the start."""
        config: RunConfig = load_config(self.config)
        if self.is_exported:
            optimizer = make_optimizer(config.optimizer)
            theta = optimizer.init_theta(jax.random.key(0))
            if trained and self.folder is not None:
                optimizer, theta = load(self.folder)
            stacked = jax.tree.map(lambda x: x[None], theta)
            return Candidate(optimizer, (optimizer.name,), stacked)
        cores = init_population(config)
        if trained and self.folder is not None:
            cores, _ = load_checkpoint(self.folder / "checkpoint.npz", cores)
        thetas = Theta(cores.average, cores.theta.fixed)
        names = [v.name for v in config.variants]
        kept = [i for i, name in enumerate(names) if not self.only or name in self.only]
        thetas = jax.tree.map(lambda x: x[jax.numpy.asarray(kept)], thetas)
        optimizer = make_optimizer(config.optimizer)
        return Candidate(optimizer, tuple(names[i] for i in kept), thetas)


def evaluate(
    sources: list[Source],
    tasks: list[str],
    horizons: tuple[int, ...],
    told: tuple[int, ...],
    seeds: int,
    with_adam: bool,
    out: Path,
    wait: bool,
) -> list[Record]:
    """Judges and writes `out`.

    Args:
        sources: Weights.
        tasks: Names of tasks of either set.
        horizons: Horizons at which runs are read.
        told: Horizons of runs that are told theirs.
        seeds: Seeds.
        with_adam: Whether Adam's grid is run too.
        out: File for the records.
        wait: Whether to compile first and then wait until every source has been trained.
    """
    makers = {**VALIDATION, **TEST}
    plan = Plan(horizons=horizons, seeds=seeds, grid=Grid() if with_adam else None, told=told)
    judge = Judge([makers[name] for name in tasks], [s.candidate(False) for s in sources], plan)
    while wait and not all(source.is_ready for source in sources):
        time.sleep(0.5)
    out.parent.mkdir(parents=True, exist_ok=True)
    records = judge.run([s.candidate(True) for s in sources], out)
    return records


def merge(files: list[Path]) -> list[Record]:
    """Joins records of the same tasks from several files."""
    merged: dict[str, Record] = {}
    for file in files:
        for record in json.loads(file.read_text()):
            known = merged.setdefault(record["task"], {**record, "adam": [], "learned": []})
            known["adam"] += record["adam"]
            known["learned"] += record["learned"]
    return list(merged.values())


def summarize(records: list[Record], horizon: int, against: str = "best") -> list[dict[str, Any]]:
    """One row for each optimizer: interquartile means over tasks, the seeds averaged first."""
    schedules = SCHEDULES[against]
    names = sorted({row["name"] for record in records for row in record["learned"]})
    rows = []
    for name in names:
        found = [loss_ratio(r, name, horizon, schedules) for r in records]
        ratios = [float(f["ratio"].mean()) for f in found if f]
        means = [float(f["mean_ratio"].mean()) for f in found if f]
        speeds = [speed_up(r, name, horizon, schedules) for r in records]
        rows.append(
            {
                "name": name,
                "horizon": horizon,
                "against": against,
                "val_loss_ratio_iqm": interquartile_mean(ratios),
                "mean_loss_ratio_iqm": interquartile_mean(means),
                "speedup_iqm": interquartile_mean([s for s in speeds if s is not None]),
                "diverged": sum(int(f["diverged"].sum()) for f in found if f),
                "ratios": {r["task"]: round(x, 3) for r, x in zip(records, ratios, strict=True)},
            }
        )
    return rows


def print_summary(rows: list[dict[str, Any]]) -> None:
    """Prints rows as a table."""
    for row in sorted(rows, key=lambda r: r["val_loss_ratio_iqm"]):
        ratios = " ".join(f"{task}={value:.3f}" for task, value in row["ratios"].items())
        print(
            f"{row['name']:>14} T={row['horizon']:<5} vs {row['against']:<8} "
            f"val {row['val_loss_ratio_iqm']:.3f} mean {row['mean_loss_ratio_iqm']:.3f} "
            f"speed {row['speedup_iqm']:.2f} div {row['diverged']} | {ratios}",
            flush=True,
        )
