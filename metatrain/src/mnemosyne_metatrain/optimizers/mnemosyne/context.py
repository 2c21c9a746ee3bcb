"""Level 2 of the spatial encoder: a chunk learns of its tensor's other chunks, and of the net.

Both attentions are bi-directional Performers, over the chunk tokens of a tensor and over the mean
tokens of the tensors. They read the tokens of the step before, so that a chunk's update never waits
for another chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.components.linear_attention import divide_or_zero
from mnemosyne_metatrain.layout import Layout
from mnemosyne_metatrain.optimizers.base import Theta, Tree
from mnemosyne_metatrain.optimizers.mnemosyne.config import MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.dense import Attention, dense, init_dense


@dataclass(frozen=True)
class ContextEncoder:
    """Context of each chunk from the tokens of all."""

    config: MnemosyneConfig

    @property
    def attention(self) -> Attention:
        """Sizes of both attentions."""
        c = self.config
        return Attention(
            c.token_width, c.key_width, c.memory_width, 0, c.cell_features, c.feature_map
        )

    @property
    def width(self) -> int:
        """Width of a context."""
        return self.config.token_width

    def init(self, key: jax.Array) -> Theta:
        """Draws weights."""
        c = self.config
        keys = jax.random.split(key, 6)
        learned: Tree = {
            "within": self.attention.init(keys[0]),
            "within_out": init_dense(keys[1], c.memory_width, c.token_width),
            "across": self.attention.init(keys[2]),
            "across_out": init_dense(keys[3], c.memory_width, c.token_width),
        }
        fixed: Tree = {
            "within": self.attention.init_projection(keys[4]),
            "across": self.attention.init_projection(keys[5]),
        }
        return Theta(learned, fixed)

    def _attend(self, theta: Theta, name: str, tokens: jax.Array, groups: jax.Array) -> jax.Array:
        """Attends among tokens [N, w] that share a group; groups is one-hot, [G, N]."""
        heads = self.attention.heads(theta.learned[name], tokens)
        phi_q = self.attention.features(heads.query, theta.fixed[name])
        phi_k = self.attention.features(heads.key, theta.fixed[name])
        products = phi_k[:, :, None] * heads.value[:, None, :]
        content = jnp.einsum("gn,nmd->gmd", groups, products)
        mass = groups @ phi_k
        numerator = jnp.einsum("gn,nm,gmd->nd", groups, phi_q, content)
        denominator = jnp.sum(phi_q * (groups.T @ mass), axis=-1)
        return dense(theta.learned[f"{name}_out"], divide_or_zero(numerator, denominator))

    def encode(self, theta: Theta, knobs: Tree, layout: Layout, tokens: jax.Array) -> jax.Array:
        """Returns the context of each chunk, [C, token_width].

        Args:
            theta: Weights of this encoder.
            knobs: Gates.
            layout: Which chunk belongs to which tensor.
            tokens: Tokens of all chunks, [C, token_width].
        """
        membership = jnp.asarray(layout.membership)
        within = self._attend(theta, "within", tokens, membership)
        means = (membership @ tokens) / jnp.sum(membership, axis=1, keepdims=True)
        everyone = jnp.ones((1, len(layout.specs)))
        across = self._attend(theta, "across", means, everyone)
        return knobs["gate_level2"] * within + knobs["gate_across"] * (membership.T @ across)
