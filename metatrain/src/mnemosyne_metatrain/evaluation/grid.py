"""Adam's grid, and which of its points is the tuned Adam."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.evaluation.runs import SEGMENT, AdamPoint


@dataclass(frozen=True)
class Grid:
    """The points of one schedule and horizon.

    Attributes:
        low: Log10 of the least rate.
        high: Log10 of the largest rate.
        num_rates: Rates, evenly spaced in the logarithm.
        warmups: Shares of the horizon.
        decays: Weight decays.
        clips: Bounds of the gradient's norm; 0 is none.
    """

    low: float = -4.5
    high: float = -0.5
    num_rates: int = 14
    warmups: tuple[float, ...] = (0.0, 0.05)
    decays: tuple[float, ...] = (0.0, 0.1)
    clips: tuple[float, ...] = (0.0,)

    def points(self, cosine: bool, horizon: int) -> AdamPoint:
        """Returns the points as arrays [G]."""
        rates = np.logspace(self.low, self.high, self.num_rates)
        mesh = np.meshgrid(rates, self.warmups, self.clips, self.decays, indexing="ij")
        rate, warmup, clip, decay = (jnp.asarray(m.reshape(-1), jnp.float32) for m in mesh)
        full = jnp.ones_like(rate)
        return AdamPoint(rate, cosine * full, warmup, clip, decay, horizon * full)


def describe(points: AdamPoint, index: int) -> dict[str, float]:
    """Returns one point in words."""
    return {name: float(value[index]) for name, value in zip(points._fields, points, strict=True)}


def segment_of(horizon: int) -> int:
    """Index of the segment that ends at a horizon.

    Raises:
        ValueError: If no segment ends there.
    """
    if horizon % SEGMENT:
        raise ValueError(f"horizon {horizon} is not a multiple of {SEGMENT}")
    return horizon // SEGMENT - 1


def best_point(final: NDArray[np.float64]) -> int:
    """The grid point [G] with the least mean final loss over seeds, from [G, S]."""
    means = np.where(np.isfinite(final), final, np.inf).mean(axis=1)
    return int(np.argmin(means))
