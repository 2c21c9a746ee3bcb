"""Level 2 of the spatial encoder: a chunk learns of its tensor's other chunks, and of the net.

Two heads of a bi-directional Performer over chunk tokens: one sees the chunks of the same tensor,
one sees all chunks. They read the tokens of the step before, so that a chunk's update never waits
for another chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.components.linear_attention import divide_or_zero
from mnemosyne_metatrain.layout import Layout
from mnemosyne_metatrain.optimizers.base import Theta, Tree
from mnemosyne_metatrain.optimizers.mnemosyne.config import MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.dense import Attention, dense, init_dense


def head_groups(layout: Layout) -> NDArray[np.float32]:
    """Which chunks see each other, one-hot, [2, T, C]: those of a tensor; all, as one group."""
    everyone = np.zeros_like(layout.membership)
    everyone[0] = 1.0
    return np.stack([layout.membership, everyone])


@dataclass(frozen=True)
class ContextEncoder:
    """Context of each chunk from the tokens of all."""

    config: MnemosyneConfig

    @property
    def attention(self) -> Attention:
        """Sizes of each head."""
        c = self.config
        return Attention(
            c.token_width, c.key_width, c.memory_width, 0, c.cell_features, c.feature_map
        )

    @property
    def width(self) -> int:
        """Width of a context."""
        return 2 * self.config.memory_width

    def init(self, key: jax.Array) -> Theta:
        """Draws weights."""
        keys = jax.random.split(key, 2)
        size = 2 * self.config.key_width + self.config.memory_width
        learned: Tree = {"heads": init_dense(keys[0], self.config.token_width, 2 * size)}
        fixed: Tree = {"projection": self.attention.init_projection(keys[1])}
        return Theta(learned, fixed)

    def encode(self, theta: Theta, knobs: Tree, layout: Layout, tokens: jax.Array) -> jax.Array:
        """Returns the context of each chunk, [C, 2 memory_width].

        Args:
            theta: Weights of this encoder.
            knobs: Gates.
            layout: Which chunk belongs to which tensor.
            tokens: Tokens of all chunks, [C, token_width].
        """
        groups = jnp.asarray(head_groups(layout))
        joined = dense(theta.learned["heads"], tokens)
        joined = jnp.moveaxis(joined.reshape(tokens.shape[0], 2, -1), 1, 0)
        heads = self.attention.split(joined)
        phi_q, phi_k = self.attention.features(heads.query, heads.key, theta.fixed["projection"])
        # A value of 1 is carried along: its sum is the normalizer.
        values = jnp.concatenate([heads.value, jnp.ones_like(heads.value[..., :1])], axis=-1)
        products = phi_k[..., :, None] * values[..., None, :]
        content = jnp.einsum("htc,hcmd->htmd", groups, products)
        content = jnp.einsum("htc,htmd->hcmd", groups, content)
        read = jnp.einsum("hcm,hcmd->hcd", phi_q, content)
        gates = jnp.stack([knobs["gate_level2"], knobs["gate_across"]])
        read = gates[:, None, None] * divide_or_zero(read[..., :-1], read[..., -1])
        return jnp.moveaxis(read, 0, 1).reshape(tokens.shape[0], -1)
