"""Sizes and constants of the coordinate-wise optimizer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import jax.numpy as jnp

from mnemosyne_metatrain.components.feature_maps import FeatureMapKind
from mnemosyne_metatrain.optimizers.base import Tree

# Means r1, r2 and s, and the log step size.
_PLAIN_FLOATS = 4


@dataclass(frozen=True)
class CoordinateKnobs:
    """Numbers that enter the arithmetic, so that variants of them share one compiled program.

    Attributes:
        gate_cam: The read-out of the memory in time; 0 leaves it out.
        gate_correction: The correction of Adam's direction; 0 leaves it out.
        correction: Bound of each weight of the correction.
        eta_vector: Step size at a zero decoder for biases, gains and embeddings.
        eta_matrix: The same for a matrix of fan-in 64.
        width_exponent: The step size of a matrix falls with fan-in to this power.
        eta_rise: Most that the log step size rises in a step.
        eta_smoothing: Share of the way to its target that the log step size goes in a step.
        eta_low: Least log step size over its prior that the decoder can ask for.
        eta_high: Largest.
        eta_temper: Factor of the log step size that the decoder asks for.
        epsilon: Added to the normalized square root of s.
    """

    gate_cam: float = 1.0
    gate_correction: float = 1.0
    correction: float = 1.0
    eta_vector: float = 0.004
    eta_matrix: float = 0.0044
    width_exponent: float = 0.7
    eta_rise: float = 0.05
    eta_smoothing: float = 0.2
    eta_low: float = -8.0
    eta_high: float = 2.0
    eta_temper: float = 1.0
    epsilon: float = 1e-5

    def arrays(self) -> Tree:
        """Returns the knobs as scalars of the weights."""
        return {name: jnp.asarray(value, jnp.float32) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class CoordinateConfig:
    """Sizes; every array of the weights and of the state follows from them.

    Attributes:
        key_width: Width of a coordinate's query and key.
        value_width: Width of its value.
        memory_features: Random features of its memory, over all discounts.
        discounts: Discounts of the memory at the start of meta-training.
        hidden: Hidden width of the read-out.
        feature_map: Feature map of queries and keys.
        decay_fast: Discount of r1, Adam's beta1.
        decay_slow: Discount of r2.
        decay_square: Discount of s, Adam's beta2.
        chunk_size: Of the layout; a coordinate does not see it.
        cell_size: Of the layout; a coordinate does not see it.
        knobs: Numbers that variants may differ in within one program.
    """

    key_width: int = 4
    value_width: int = 4
    memory_features: int = 8
    discounts: tuple[float, ...] = (0.9, 0.99)
    hidden: int = 24
    feature_map: FeatureMapKind = "favor_plus"
    decay_fast: float = 0.9
    decay_slow: float = 0.99
    decay_square: float = 0.999
    chunk_size: int = 1024
    cell_size: int = 32
    knobs: CoordinateKnobs = field(default_factory=CoordinateKnobs)

    @property
    def state_floats(self) -> int:
        """Floats that are kept for each coordinate: 44 with the default sizes."""
        return _PLAIN_FLOATS + self.memory_features * (self.value_width + 1)
