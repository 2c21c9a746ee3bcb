"""Sizes and constants of the flagship."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

import jax.numpy as jnp

from mnemosyne_metatrain.components.feature_maps import FeatureMapKind
from mnemosyne_metatrain.optimizers.base import Tree

WriteRule = Literal["additive", "delta", "recurrent_delta"]


@dataclass(frozen=True)
class Knobs:
    """Numbers that enter the arithmetic, so that variants of them share one compiled program.

    A gate is 1 to keep a part and 0 to leave it out.

    Attributes:
        gate_level1: Attention among the cells of a chunk.
        gate_flt: Positions in that attention.
        gate_level2: Context from the other chunks of the tensor.
        gate_across: Context from all chunks of the net.
        gate_cam: The read-out of the memory in time.
        gate_cell_gain: The gain of each cell.
        gate_mixture: The decoded weights of the memories.
        gate_growth: The decoded growth of the slow memory's keys.
        gate_decay: The decoded weight decay.
        gate_guard: The cap on updates and the trip wire.
        eta_vector: Step size at a zero decoder for biases, gains and embeddings.
        eta_matrix: The same for a matrix of fan-in 64.
        width_exponent: The step size of a matrix falls with fan-in to this power.
        warmup: Steps until the step size is half its prior.
        sharp_weight: w0 at a zero decoder.
        fast_weight: w1 at a zero decoder.
        slow_weight: w2 at a zero decoder.
        fast_power: w0 and w1 fall with age to this power.
        growth: kappa - 1 at a zero decoder.
        decay: Weight decay of matrices at a zero decoder, as a share of their step.
        write_limit: Most that the rms of a direction may be when it is written to r2.
        age_limit: Steps after which the slow memory forgets at a constant rate.
        eta_rise: Most that the log step size rises in a step.
        smoothing: Share of the way to their targets that the log step size and the mixture
            of memories go in a step.
        eta_low: Least log step size over its prior that the decoder can ask for.
        eta_high: Largest.
        guard_cap: Most rms of an update, over the scale of its tensor.
        guard_margin: Rise of the mean log loss over its best at which the guard trips.
        guard_release: Rise below which it lets go.
        guard_recovery: Share of the guard's level that is left a step later.
        guard_share: Step size of the guard's Adam, as a share of the optimizer's own.
        epsilon: Added to the root of s, relative to the chunk's rms of gradients.
    """

    gate_level1: float = 1.0
    gate_flt: float = 1.0
    gate_level2: float = 1.0
    gate_across: float = 1.0
    gate_cam: float = 1.0
    gate_cell_gain: float = 1.0
    gate_mixture: float = 1.0
    gate_growth: float = 1.0
    gate_decay: float = 1.0
    gate_guard: float = 1.0
    eta_vector: float = 0.06
    eta_matrix: float = 0.029
    width_exponent: float = 0.5
    warmup: float = 6.0
    sharp_weight: float = 0.02
    fast_weight: float = 0.09
    slow_weight: float = 0.5
    fast_power: float = 0.25
    growth: float = 1.3
    decay: float = 0.08
    write_limit: float = 3.0
    age_limit: float = 20000.0
    eta_rise: float = 0.05
    smoothing: float = 0.2
    eta_low: float = -4.0
    eta_high: float = 1.5
    guard_cap: float = 0.1
    guard_margin: float = 0.7
    guard_release: float = 0.35
    guard_recovery: float = 0.98
    guard_share: float = 0.1
    epsilon: float = 1e-5

    def arrays(self) -> Tree:
        """Returns the knobs as scalars of the weights."""
        return {name: jnp.asarray(value, jnp.float32) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class MnemosyneConfig:
    """Sizes of the flagship; every array of its weights follows from them.

    Attributes:
        cell_size: Coordinates in a cell.
        chunk_size: Most coordinates in a chunk.
        cell_width: Width of a cell's token.
        key_width: Width of queries and keys, everywhere.
        cell_features: Random features of level 1.
        frequencies: Spectrum samples of the positional encoding.
        cell_hidden: Hidden width of the cells' perceptron.
        token_width: Width of a chunk's token.
        memory_features: Random features of the memory in time, over all discounts.
        memory_width: Width of the memory's values.
        discounts: Discounts of the memory in time at the start of meta-training.
        write_rule: How the memory in time is written: "additive", "delta" or "recurrent_delta".
        hidden: Hidden width of the decoder.
        feature_map: Feature map of every attention.
        decay_fast: Discount of r1, Adam's beta1.
        decay_square: Discount of s, Adam's beta2.
        same_step_context: Whether level 2 reads tokens of this step instead of the step before.
        knobs: Numbers that variants may differ in within one program.
    """

    cell_size: int = 32
    chunk_size: int = 1024
    cell_width: int = 16
    key_width: int = 8
    cell_features: int = 16
    frequencies: int = 2
    cell_hidden: int = 16
    token_width: int = 32
    memory_features: int = 16
    memory_width: int = 16
    discounts: tuple[float, ...] = (0.9, 0.99)
    write_rule: WriteRule = "additive"
    hidden: int = 32
    feature_map: FeatureMapKind = "favor_plus"
    decay_fast: float = 0.9
    decay_square: float = 0.999
    same_step_context: bool = False
    knobs: Knobs = field(default_factory=Knobs)

    def __post_init__(self) -> None:
        """Checks names.

        Raises:
            ValueError: If the write rule is unknown.
        """
        if self.write_rule not in get_args(WriteRule):
            raise ValueError(f"unknown write rule: {self.write_rule!r}")
