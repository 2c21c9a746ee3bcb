"""What the flagship costs a parameter and step: multiply-adds, bytes moved, bytes kept."""

from __future__ import annotations

from dataclasses import dataclass

from mnemosyne_metatrain.optimizers.mnemosyne import conditions, features
from mnemosyne_metatrain.optimizers.mnemosyne.config import MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.context import ContextEncoder
from mnemosyne_metatrain.optimizers.mnemosyne.spatial import SpatialEncoder
from mnemosyne_metatrain.optimizers.mnemosyne.temporal import TemporalEncoder

# Each coordinate: two moments 5, the inverse root 4, three directions 4, eleven sums 11, the last
# direction 2, the slow memory 2, the direction 3, gain, guard and step 5.
_COORDINATE_MULTIPLY_ADDS = 36


@dataclass(frozen=True)
class Costs:
    """Costs a parameter, for tensors whose chunks are full."""

    multiply_adds: float
    bytes_moved: float
    bytes_kept: float


def costs(config: MnemosyneConfig) -> Costs:
    """Counts from the sizes; the same formula serves the ablation's columns."""
    c = config
    heads = 2 * c.key_width + c.cell_width
    cell_map = SpatialEncoder(c, 0).attention.feature_map
    net_map, past_map = (
        ContextEncoder(c).attention.feature_map,
        TemporalEncoder(c).attention.feature_map,
    )
    memory_features = len(c.discounts) * past_map.num_features
    features_of_cell = 2 * cell_map.input_size * cell_map.num_rows
    cell = (
        features.NUM_CELL_FEATURES * c.cell_width
        + c.cell_width * heads
        + features_of_cell
        + 2 * cell_map.num_features * (c.cell_width + 1)
        + c.cell_width * c.cell_width
        + 2 * c.cell_width * c.cell_hidden
        + c.cell_width
    )
    own = features.NUM_CHUNK_STATISTICS + 2 + conditions.NUM_CONDITIONS
    token_heads = 2 * c.key_width + c.memory_width
    joined = c.token_width + (len(c.discounts) + 2) * c.memory_width
    chunk = (
        (c.cell_width + own) * c.token_width
        + 3 * c.token_width * token_heads
        + 2 * c.key_width * (len(c.discounts) * past_map.num_rows + 2 * net_map.num_rows)
        + 3 * memory_features * (c.memory_width + 1)
        + 2 * 3 * net_map.num_features * (c.memory_width + 1)
        + joined * c.hidden
        + 6 * c.hidden
    )
    # The delta rules have no Psi; a sum takes its place in the count. The recurrent one adds a map.
    recall = 4 * memory_features * (c.memory_width + (c.write_rule == "additive"))
    if c.write_rule == "recurrent_delta":
        outputs = len(c.discounts) * c.memory_width
        recall += 4 * outputs
        chunk += outputs * (token_heads + len(c.discounts))
    # Log step, three of the mixture, scale features, token.
    scalars = 4 * (6 + c.token_width)
    token_bytes = (recall + scalars) / c.chunk_size
    return Costs(
        multiply_adds=_COORDINATE_MULTIPLY_ADDS + cell / c.cell_size + chunk / c.chunk_size,
        bytes_moved=4 * (1 + 3 + 3 + 1) + 2 * token_bytes,
        bytes_kept=12 + token_bytes,
    )
