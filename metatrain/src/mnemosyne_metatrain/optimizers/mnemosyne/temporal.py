"""The temporal encoder, CAM: a compact associative memory of each chunk's past.

With discounts lambda_j, each with its share of the random features:

    N_j <- lambda_j N_j + phi_j(k) v^T;   Psi_j <- lambda_j Psi_j + phi_j(k)
    out_j = phi_j(q)^T N_j / (phi_j(q)^T Psi_j)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.components.linear_attention import divide_or_zero
from mnemosyne_metatrain.optimizers.base import Theta, Tree
from mnemosyne_metatrain.optimizers.mnemosyne.config import MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.dense import Attention


class TokenMemory(NamedTuple):
    """N [C, J, M, D] and Psi [C, J, M]."""

    content: jax.Array
    mass: jax.Array


@dataclass(frozen=True)
class TemporalEncoder:
    """Attention in time over a chunk's own tokens."""

    config: MnemosyneConfig

    @property
    def attention(self) -> Attention:
        """Sizes of the attention; each discount has its own projection."""
        c = self.config
        features = c.memory_features // len(c.discounts)
        return Attention(c.token_width, c.key_width, c.memory_width, 0, features, c.feature_map)

    @property
    def width(self) -> int:
        """Width of the read-out."""
        return len(self.config.discounts) * self.config.memory_width

    def init(self, key: jax.Array) -> Theta:
        """Draws weights."""
        head_key, *keys = jax.random.split(key, 1 + len(self.config.discounts))
        discounts = jnp.asarray(self.config.discounts)
        learned: Tree = {
            "heads": self.attention.init(head_key),
            "discounts": jnp.log(discounts) - jnp.log1p(-discounts),
        }
        fixed: Tree = {"projection": jnp.stack([self.attention.init_projection(k) for k in keys])}
        return Theta(learned, fixed)

    def empty(self, num_chunks: int) -> TokenMemory:
        """Returns memories that hold nothing."""
        features = self.attention.num_features
        shape = (num_chunks, len(self.config.discounts), features)
        return TokenMemory(jnp.zeros((*shape, self.config.memory_width)), jnp.zeros(shape))

    def step(
        self, theta: Theta, memory: TokenMemory, tokens: jax.Array
    ) -> tuple[jax.Array, TokenMemory]:
        """Writes tokens [C, w] and reads them back, [C, J * D]."""
        heads = self.attention.heads(theta.learned["heads"], tokens)

        maps = jax.vmap(self.attention.features, in_axes=(None, None, 0), out_axes=2)
        phi_q, phi_k = maps(heads.query, heads.key, theta.fixed["projection"])
        discounts = jax.nn.sigmoid(theta.learned["discounts"])
        content = discounts[:, None, None] * memory.content
        content = content + phi_k[..., None] * heads.value[:, None, None, :]
        mass = discounts[:, None] * memory.mass + phi_k
        numerator = jnp.einsum("cjm,cjmd->cjd", phi_q, content)
        denominator = jnp.sum(phi_q * mass, axis=-1)
        read = divide_or_zero(numerator, denominator)
        return read.reshape(tokens.shape[0], -1), TokenMemory(content, mass)
