"""The coin of UFOM's correction: drawn once an outer step, for all tasks and all variants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mnemosyne_metatrain.estimators import (
    UfomAverages,
    UfomSquares,
    init_averages,
    update_averages,
)
from mnemosyne_metatrain.training.devices import everywhere, shared_sharding
from mnemosyne_metatrain.training.estimation import Correction, Estimation
from mnemosyne_metatrain.training.outer import OuterMetrics

_COIN_NOTE = "ufom."


class CorrectionCoin:
    """The coin, and the averages that its probability is adapted to; nothing waits for the device.

    Other estimators get a coin that never falls.
    """

    def __init__(self, kind: Estimation, mesh: Mesh, notes: Mapping[str, Any]) -> None:
        """Starts from the notes of a checkpoint, or from nothing."""
        self._is_used = kind.kind == "ufom"
        saved = [notes.get(_COIN_NOTE + name) for name in UfomAverages._fields]
        averages = init_averages()
        if all(value is not None for value in saved):
            averages = UfomAverages(*(jnp.asarray(value) for value in saved))
        self._averages = everywhere(mesh, averages)
        self._draw = jax.jit(kind.draw)
        self._update = jax.jit(
            lambda averages, exact, gap, is_corrected: update_averages(
                averages, UfomSquares(jnp.mean(exact), jnp.mean(gap)), is_corrected
            ),
            out_shardings=shared_sharding(mesh),
        )
        self._correction = everywhere(mesh, kind.draw(averages, jax.random.key(0)))

    def draw(self, key: jax.Array) -> Correction:
        """Draws the coin of the outer step that has this key."""
        if self._is_used:
            self._correction = self._draw(self._averages, jax.random.fold_in(key, 4))
        return self._correction

    def absorb(self, metrics: OuterMetrics) -> None:
        """Takes in the squares of that step, leaves [P]."""
        if self._is_used:
            squares = (metrics.exact_square, metrics.gap_square)
            self._averages = self._update(self._averages, *squares, self._correction.is_corrected)

    def notes(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        if not self._is_used:
            return {}
        return {_COIN_NOTE + name: x for name, x in self._averages._asdict().items()}
