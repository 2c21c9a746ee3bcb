"""Optimizers and task families by the names that configurations use."""

from __future__ import annotations

import dataclasses
from typing import Any

from mnemosyne_metatrain.config import FamilyConfig, build
from mnemosyne_metatrain.optimizers.base import Optimizer
from mnemosyne_metatrain.optimizers.coordinate import CoordinateConfig, CoordinateMnemosyne
from mnemosyne_metatrain.optimizers.lstm import Lstm, LstmConfig
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne, MnemosyneConfig
from mnemosyne_metatrain.tasks.bank import TRAIN_EXAMPLES
from mnemosyne_metatrain.tasks.base import TaskFamily
from mnemosyne_metatrain.tasks.field import FieldFamily
from mnemosyne_metatrain.tasks.mlp import MlpFamily
from mnemosyne_metatrain.tasks.quadratic import QuadraticFamily
from mnemosyne_metatrain.tasks.regression import RegressionFamily
from mnemosyne_metatrain.tasks.token_mlp import TokenMlpFamily

KINDS = ("mnemosyne", "mnemosyne-coordinate", "lstm", "rnnprop")
FAMILIES = ("mlp", "regression", "field", "quadratic", "token_mlp")


def make_optimizer(table: dict[str, Any], knobs: dict[str, float] | None = None) -> Optimizer:
    """Makes the optimizer that a configuration's table describes.

    Args:
        table: "kind", the sizes of that kind, and for those that have them a table "knobs".
        knobs: Numbers that replace some of the knobs.

    Raises:
        ValueError: If the kind or one of its sizes is not known.
    """
    sizes = {key: value for key, value in table.items() if key != "kind"}
    kind = table.get("kind", "mnemosyne")
    if kind == "mnemosyne":
        config = build(MnemosyneConfig, sizes)
        return Mnemosyne(
            dataclasses.replace(config, knobs=dataclasses.replace(config.knobs, **(knobs or {})))
        )
    if kind == "mnemosyne-coordinate":
        sizes_ = build(CoordinateConfig, sizes)
        return CoordinateMnemosyne(
            dataclasses.replace(sizes_, knobs=dataclasses.replace(sizes_.knobs, **(knobs or {})))
        )
    if knobs:
        raise ValueError(f"{kind} has no knobs")
    if kind in ("lstm", "rnnprop"):
        return Lstm(build(LstmConfig, {**sizes, "normalized": kind == "rnnprop"}), kind)
    raise ValueError(f"unknown optimizer: {kind!r}; there are {', '.join(KINDS)}")


def make_family(config: FamilyConfig) -> TaskFamily:
    """Makes a family of tasks.

    Raises:
        ValueError: If the kind is not known.
    """
    if config.kind == "mlp":
        return MlpFamily(
            config.widths,
            min_examples=config.min_examples,
            max_examples=config.max_examples or TRAIN_EXAMPLES,
            clean=config.clean,
        )
    if config.kind == "regression":
        return RegressionFamily(config.widths, min_examples=config.min_examples)
    if config.kind == "field":
        return FieldFamily(config.widths)
    if config.kind == "quadratic":
        return QuadraticFamily(config.size)
    if config.kind == "token_mlp":
        return TokenMlpFamily()
    raise ValueError(f"unknown family: {config.kind!r}; there are {', '.join(FAMILIES)}")
