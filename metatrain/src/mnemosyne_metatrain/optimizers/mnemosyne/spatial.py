"""The spatial encoder, HPE: cells attend within a chunk, and are pooled to one token a chunk.

Level 1 is a bi-directional Performer over the cells of a chunk, with FLT relative positions of the
cells' (row, column). Pooling adds the chunk's own statistics and what is known of the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.components.flt import (
    SpectrumConfig,
    append_features,
    draw_frequencies,
    init_spectrum,
    positional_features,
    spectrum,
)
from mnemosyne_metatrain.components.linear_attention import bidirectional_attention
from mnemosyne_metatrain.layout import Layout
from mnemosyne_metatrain.optimizers.base import Theta, Tree
from mnemosyne_metatrain.optimizers.mnemosyne.config import MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.dense import Attention, dense, init_dense
from mnemosyne_metatrain.optimizers.mnemosyne.features import NUM_CELL_FEATURES


class Positions(NamedTuple):
    """Positional features of the cells of every chunk, for queries and keys, [C, K, 2 r]."""

    query: jax.Array
    key: jax.Array


@dataclass(frozen=True)
class SpatialEncoder:
    """Level 1 and pooling.

    Attributes:
        config: Sizes.
        chunk_inputs: Width of the chunk's own features.
    """

    config: MnemosyneConfig
    chunk_inputs: int

    @property
    def attention(self) -> Attention:
        """The attention among cells."""
        c = self.config
        return Attention(
            c.cell_width,
            c.key_width,
            c.cell_width,
            2 * c.frequencies,
            c.cell_features,
            c.feature_map,
        )

    @property
    def spectrum_config(self) -> SpectrumConfig:
        """The family of positional masks over (row, column), signed and asymmetric."""
        return SpectrumConfig(
            "gaussian_mixture", 2, self.config.frequencies, num_modes=4, asymmetric=True
        )

    def init(self, key: jax.Array) -> Theta:
        """Draws weights."""
        c = self.config
        keys = jax.random.split(key, 8)
        learned: Tree = {
            "embed": init_dense(keys[0], NUM_CELL_FEATURES, c.cell_width),
            "heads": self.attention.init(keys[1]),
            "merge": init_dense(keys[2], c.cell_width, c.cell_width, 0.5),
            "expand": init_dense(keys[3], c.cell_width, c.cell_hidden),
            "contract": init_dense(keys[4], c.cell_hidden, c.cell_width, 0.5),
            "pool": init_dense(keys[5], c.cell_width + self.chunk_inputs, c.token_width),
            "spectrum": init_spectrum(keys[6], self.spectrum_config),
        }
        projection_key, frequency_key = jax.random.split(keys[7])
        fixed: Tree = {
            "projection": self.attention.init_projection(projection_key),
            "frequencies": draw_frequencies(frequency_key, self.spectrum_config),
        }
        return Theta(learned, fixed)

    def positions(self, theta: Theta, layout: Layout) -> Positions:
        """Positional features of all cells; they depend on weights and layout alone."""
        waves = spectrum(
            self.spectrum_config, theta.learned["spectrum"], theta.fixed["frequencies"]
        )
        return Positions(*positional_features(waves, jnp.asarray(layout.cell_positions)))

    def encode_cells(
        self, theta: Theta, knobs: Tree, positions: Positions, features: jax.Array, mask: jax.Array
    ) -> jax.Array:
        """Returns the cells' tokens after level 1, [C, K, cell_width].

        Args:
            theta: Weights of this encoder.
            knobs: Gates.
            positions: From `positions`.
            features: Cell features, [C, K, 11].
            mask: 1 for a cell with a real coordinate, [C, K].
        """
        learned = theta.learned
        tokens = jnp.tanh(dense(learned["embed"], features))
        heads = self.attention.heads(learned["heads"], tokens)
        gate = knobs["gate_flt"]
        query = append_features(heads.query, gate * positions.query)
        key = append_features(heads.key, gate * positions.key)
        phi_q, phi_k = self.attention.features(query, key, theta.fixed["projection"])
        attended = bidirectional_attention(phi_q, phi_k, heads.value, mask)
        tokens = tokens + knobs["gate_level1"] * dense(learned["merge"], attended)
        hidden = jax.nn.relu(dense(learned["expand"], tokens))
        encoded: jax.Array = tokens + dense(learned["contract"], hidden)
        return encoded

    def pool(
        self, theta: Theta, tokens: jax.Array, chunk_features: jax.Array, mask: jax.Array
    ) -> jax.Array:
        """Returns the chunks' tokens [C, token_width]: the mean of their cells and own features."""
        mean = jnp.sum(tokens * mask[..., None], axis=1) / jnp.sum(mask, axis=1)[:, None]
        joined = jnp.concatenate([mean, chunk_features], axis=-1)
        return jnp.tanh(dense(theta.learned["pool"], joined))
