"""Configuration of a meta-training run, from a TOML file with defaults for all it leaves out."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mnemosyne_metatrain.layout import StorageOrder
from mnemosyne_metatrain.training.estimation import EstimatorKind
from mnemosyne_metatrain.training.recipe import Recipe

T = TypeVar("T")


@dataclass(frozen=True)
class FamilyConfig:
    """One family of meta-training tasks.

    Attributes:
        kind: "mlp", "regression", "field", "quadratic" or "token_mlp".
        widths: Hidden widths of "mlp", "regression" and "field".
        size: Size of "quadratic".
        chunk_size: Most coordinates in a chunk.
        transposed: Which matrices are stored with their axes reversed, "some", "others", "all" or
            "none"; see `stored`. "some" is the family's own choice.
        tasks: Tasks at once; 0 is the run's number.
        min_examples: Least training examples of a task of "mlp" or "regression".
        max_examples: Most training examples of a task of "mlp"; 0 is all that there are.
        clean: Whether tasks of "mlp" have classes far apart and no noise in their labels, so that
            they can be fitted to the end.
    """

    kind: str
    widths: tuple[int, ...] = ()
    size: int = 32
    chunk_size: int = 1024
    transposed: StorageOrder = "some"
    tasks: int = 0
    min_examples: int = 4096
    max_examples: int = 0
    clean: bool = False


@dataclass(frozen=True)
class VariantConfig:
    """One member of the population that is trained in one program.

    Attributes:
        name: Name in metrics and exports.
        seed: Of the weights at the start.
        source: Exported weights of the run's sizes that it starts from; "" draws them.
        learns: Beginnings of names of the learned arrays that change, such as "decoder.out"; all
            arrays if there is none.
        shut: Inputs of the flagship's chunks that it cannot read, such as "fan in".
        knobs: Numbers of the optimizer that differ from the run's.
        recipe: Numbers of the recipe that differ from the run's.
    """

    name: str
    seed: int = 0
    source: str = ""
    learns: tuple[str, ...] = ()
    shut: tuple[str, ...] = ()
    knobs: dict[str, float] = field(default_factory=dict)
    recipe: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvolutionConfig:
    """Numbers of meta-training by evolution over whole runs.

    Attributes:
        learned: Prefixes of learned arrays that are searched, with the scale of their entries.
        knobs: Knobs that are searched, with the scale of their logarithms.
        seeds: Searches side by side.
        pairs: Antithetic pairs of a generation and seed.
        sigma: Standard deviation of perturbations, over the scales.
        rate: Step size of the Adam that follows the estimated gradient, over the scales.
        warmup: Generations until the rate is full.
        squash: Differences of cost are bounded by this.
        segments: Segments of a run.
        segment: Steps of a segment.
        floor: Losses below this share of the first one count little.
        mean_weight: Weight of the mean training loss in a run's cost.
        told_share: Share of tasks that tell their loss.
    """

    learned: dict[str, float] = field(default_factory=lambda: {"decoder.out": 1.0})
    knobs: dict[str, float] = field(default_factory=dict)
    seeds: int = 1
    pairs: int = 32
    sigma: float = 0.05
    rate: float = 0.02
    warmup: int = 5
    squash: float = 0.2
    segments: int = 16
    segment: int = 125
    floor: float = 0.005
    mean_weight: float = 0.1
    told_share: float = 0.7


@dataclass(frozen=True)
class TeachingConfig:
    """Numbers of teaching the decoder's last map.

    Attributes:
        pairs: Antithetic pairs of pushed runs of a task.
        sigmas: Standard deviations of pushes of the six outputs: log step size (halved), w1, w2,
            growth, decay, w0.
        segments: Segments of a run.
        segment: Steps of a segment.
        phase_starts: First segments of all phases but the first, which starts at 0.
        horizons: Segments after which a run is judged; a task that is told its horizon has one.
        horizon_share: Share of tasks that are told their horizon.
        loss_share: Share of tasks that tell their loss.
        floor: Losses below this share of the first one count little.
        mean_weight: Weight of the mean training loss in a run's cost.
        squash: Differences of cost are bounded by this.
        ridges: Numbers of tasks' worth of ridge that are tried.
        memory: What the lessons of a round count in the next one; 0 forgets them.
        seed: Of tasks and pushes, added to the run's, which the weights at the start are drawn by.
    """

    pairs: int = 8
    sigmas: tuple[float, ...] = (0.2, 0.25, 0.25, 0.25, 0.35, 0.25)
    segments: int = 16
    segment: int = 125
    phase_starts: tuple[int, ...] = (2, 4, 8, 14)
    horizons: tuple[int, ...] = (4, 8, 16)
    horizon_share: float = 0.4
    loss_share: float = 0.8
    floor: float = 0.005
    mean_weight: float = 0.15
    squash: float = 0.3
    ridges: tuple[float, ...] = (20.0, 100.0)
    memory: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class RunConfig:
    """A meta-training run.

    Attributes:
        name: Name of the run.
        seed: Of tasks and batches, the same for all variants.
        iterations: Outer steps.
        checkpoint_every: Outer steps between checkpoints; tasks are redrawn at each of them.
        tasks: Tasks of a variant at once.
        window: Inner steps of an outer step.
        min_length: Least inner steps of a task.
        max_length: Most inner steps of a task.
        short_share: Share of tasks of one or two windows.
        warmup: Outer steps until the outer rate is full.
        final_rate: Outer rate at the end, over the full one.
        estimator: Of the meta-gradient: "first_order", "truncated", "ufom" or "pes".
        pes_sigma: Standard deviation of the perturbations of "pes".
        ufom_cost: Time of an exact gradient over that of a first-order one, for "ufom".
        ufom_minimum: Least probability of a correction of "ufom".
        keeps_products: Whether a window keeps the products of the optimizer's matrices for its
            backward pass. Computing them again takes a third more time, and for an optimizer that
            works coordinate by coordinate a third of the memory.
        optimizer: Kind and sizes of the optimizer; "kind" and "knobs" are special.
        recipe: Loss form and outer rate.
        families: Families, taken in turn.
        variants: The population.
        evolution: Numbers of meta-training by evolution.
        teaching: Numbers of teaching the decoder.
    """

    name: str
    seed: int = 0
    iterations: int = 1000
    checkpoint_every: int = 1000
    tasks: int = 32
    window: int = 50
    min_length: int = 100
    max_length: int = 2000
    short_share: float = 0.3
    warmup: int = 100
    final_rate: float = 0.05
    estimator: EstimatorKind = "first_order"
    pes_sigma: float = 0.01
    ufom_cost: float = 3.0
    ufom_minimum: float = 0.1
    keeps_products: bool = True
    optimizer: dict[str, Any] = field(default_factory=lambda: {"kind": "mnemosyne"})
    recipe: Recipe = field(default_factory=Recipe)
    families: tuple[FamilyConfig, ...] = (FamilyConfig("mlp", (32, 32)),)
    variants: tuple[VariantConfig, ...] = (VariantConfig("base"),)
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)
    teaching: TeachingConfig = field(default_factory=TeachingConfig)


def build(cls: type[T], table: dict[str, Any]) -> T:
    """Builds a frozen dataclass from a table, nested ones included.

    Raises:
        ValueError: If the table has a key that the dataclass has not.
    """
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - names)
    if unknown:
        known = ", ".join(sorted(names))
        raise ValueError(f"{cls.__name__} has no {', '.join(unknown)}; it has {known}")
    return cls(**{name: _convert(hints[name], value) for name, value in table.items()})


def _convert(hint: Any, value: Any) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(hint, value)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list):
        inner = typing.get_args(hint)[0]
        return tuple(_convert(inner, item) for item in value)
    if origin is types.UnionType or origin is dict:
        return value
    if hint is float:
        return float(value)
    return value


def load_config(path: Path) -> RunConfig:
    """Reads a run's configuration.

    A file may say `extends = "other.toml"`, of a file beside it: it then gives what differs. A
    table of its own adds to the other's; anything else replaces it.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no TOML, has a key that is not known, or extends itself.
    """
    try:
        return build(RunConfig, _read_table(path, ()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_table(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """A file's table, over that of the file that it extends."""
    if path.resolve() in seen:
        raise ValueError(f"{path} extends itself")
    own = tomllib.loads(path.read_text())
    other = own.pop("extends", None)
    if other is None:
        return own
    table = _read_table(path.parent / other, (*seen, path.resolve()))
    for name, value in own.items():
        before = table.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            table[name] = {**before, **value}
        else:
            table[name] = value
    return table
