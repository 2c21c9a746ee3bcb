"""Where weights to be judged come from, as the command line names them.

models/mnemosyne/0.2.0/weights.safetensors        an exported file
configs/tiny.toml:RUN                             all variants of a run, from its checkpoint
configs/tiny.toml:RUN:base,wide                   some of them
configs/tiny.toml:                                what the run starts from
name=...                                          the same under a name of its own
...@gate_guard=0,eta_temper=0.4                   with some knobs replaced
...@same_step_context=1                           with a size of the optimizer replaced that no
                                                  array of the weights depends on
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from mnemosyne_metatrain.config import load_config
from mnemosyne_metatrain.export import load, optimizer_table
from mnemosyne_metatrain.optimizers.base import Optimizer, Theta
from mnemosyne_metatrain.optimizers.registry import make_optimizer
from mnemosyne_metatrain.training.checkpoint import load_checkpoint
from mnemosyne_metatrain.training.trainer import init_population


@dataclass(frozen=True)
class Candidate:
    """Weights of one architecture that run side by side.

    Attributes:
        optimizer: What they are the weights of.
        names: Names of the members.
        thetas: Their weights, stacked, [P, ...].
    """

    optimizer: Optimizer
    names: tuple[str, ...]
    thetas: Theta

    def digest(self, index: int) -> str:
        """A short hash of one member's weights."""
        hasher = hashlib.sha256(json.dumps(optimizer_table(self.optimizer)).encode())
        for leaf in jax.tree.leaves(self.thetas):
            hasher.update(np.asarray(leaf[index]).tobytes())
        return hasher.hexdigest()[:16]

    def keep(self, kept: Sequence[int]) -> Candidate:
        """Some of the members."""
        index = jnp.asarray(kept)
        thetas = jax.tree.map(lambda x: x[index], self.thetas)
        return Candidate(self.optimizer, tuple(self.names[i] for i in kept), thetas)


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        config: A run's configuration; None for an exported file.
        folder: The run's folder, or an exported file; None is the start of meta-training.
        only: Names of the variants that are judged; all if empty.
        name: Name of a single member; "" keeps the run's.
        knobs: Knobs, and sizes of the optimizer that no array depends on, that are replaced.
    """

    config: Path | None
    folder: Path | None
    only: tuple[str, ...] = ()
    name: str = ""
    knobs: tuple[tuple[str, float], ...] = ()

    def check(self) -> None:
        """Checks that there are weights, of a run that is over or not.

        Raises:
            ValueError: If there are none.
        """
        if self.folder is None:
            return
        path = self.folder if self.config is None else self.folder / "checkpoint.npz"
        if not path.exists():
            cure = "" if self.config is None else ": train first, or wait for it with --wait"
            raise ValueError(f"there are no weights {path}{cure}")

    @property
    def is_ready(self) -> bool:
        """Whether there is something to judge."""
        if self.folder is None:
            return True
        return (self.folder if self.config is None else self.folder / "run.json").exists()

    def candidate(self, trained: bool = True) -> Candidate:
        """Returns the weights, or for a run the shapes of what it starts from.

        Raises:
            ValueError: If a variant or a knob is unknown, or the arrays depend on a size.
        """
        if self.config is None:
            assert self.folder is not None
            optimizer, theta = load(self.folder)
            names: tuple[str, ...] = (optimizer.name,)
            thetas = jax.tree.map(lambda x: x[None], theta)
        else:
            config = load_config(self.config)
            cores = init_population(config)
            if trained and self.folder is not None:
                cores, _ = load_checkpoint(self.folder / "checkpoint.npz", cores)
            optimizer = make_optimizer(config.optimizer)
            names = tuple(variant.name for variant in config.variants)
            thetas = Theta(cores.average, cores.theta.fixed)
        knobs = dict(self.knobs)
        optimizer = _with_sizes(optimizer, knobs)
        found = Candidate(optimizer, names, _with_knobs(thetas, knobs))
        unknown = sorted(set(self.only) - set(names))
        if unknown:
            raise ValueError(f"no variant {', '.join(unknown)}: there are {', '.join(names)}")
        kept = [i for i, name in enumerate(names) if not self.only or name in self.only]
        found = found.keep(kept)
        if self.name:
            labels = [self.name] if len(kept) == 1 else [f"{self.name}/{n}" for n in found.names]
            found = Candidate(optimizer, tuple(labels), found.thetas)
        return found


def _with_sizes(optimizer: Any, values: dict[str, float]) -> Optimizer:
    """The optimizer with those of its sizes that `values` has, which are taken out of it."""
    config = optimizer.config
    sizes = {
        name: type(getattr(config, name))(values.pop(name))
        for name in sorted(set(values) & {f.name for f in dataclasses.fields(config)})
    }
    if not sizes:
        return cast(Optimizer, optimizer)
    changed: Any = dataclasses.replace(optimizer, config=dataclasses.replace(config, **sizes))
    before, after = (
        jax.tree.map(lambda x: x.shape, jax.eval_shape(o.init_theta, jax.random.key(0)))
        for o in (optimizer, changed)
    )
    if before != after:
        raise ValueError(f"the arrays of the weights depend on {', '.join(sizes)}")
    return cast(Optimizer, changed)


def _with_knobs(thetas: Theta, values: dict[str, float]) -> Theta:
    if not values:
        return thetas
    knobs = dict(thetas.fixed.get("knobs", {}))
    unknown = sorted(set(values) - set(knobs))
    if unknown:
        known = ", ".join(sorted(knobs)) or "none"
        raise ValueError(f"no such knobs: {', '.join(unknown)}; there are {known}")
    for name, value in values.items():
        knobs[name] = jnp.full_like(knobs[name], value)
    return Theta(thetas.learned, {**thetas.fixed, "knobs": knobs})


def parse_source(text: str) -> Source:
    """Reads one argument of the command line."""
    place, _, changes = text.partition("@")
    knobs = tuple(
        (name, float(value))
        for name, _, value in (change.partition("=") for change in changes.split(",") if change)
    )
    label, equals, rest = place.partition("=")
    name, place = (label, rest) if equals else ("", place)
    if place.endswith(".safetensors") and ":" not in place:
        return Source(None, Path(place), (), name, knobs)
    config, _, rest = place.partition(":")
    folder, _, only = rest.partition(":")
    if folder.endswith(".safetensors"):
        return Source(None, Path(folder), (), name, knobs)
    chosen = tuple(only.split(",")) if only else ()
    return Source(Path(config), Path(folder) if folder else None, chosen, name, knobs)


def load_candidates(sources: Sequence[Source], trained: bool = True) -> list[Candidate]:
    """Weights of all sources; those of the same architecture are stacked into one population.

    Raises:
        ValueError: If two members have the same name, or weights are not there.
    """
    groups: dict[str, list[Candidate]] = {}
    for source in sources:
        if trained:
            source.check()
        candidate = source.candidate(trained)
        table: Any = optimizer_table(candidate.optimizer)
        table.pop("knobs", None)
        groups.setdefault(json.dumps(table, sort_keys=True), []).append(candidate)
    joined = []
    for members in groups.values():
        thetas = jax.tree.map(lambda *x: jnp.concatenate(x), *(m.thetas for m in members))
        names = tuple(name for member in members for name in member.names)
        joined.append(Candidate(members[0].optimizer, names, thetas))
    names = tuple(name for candidate in joined for name in candidate.names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"several weights are called {', '.join(twice)}: name them name=...")
    return joined
