"""The temporal encoder, CAM: a compact associative memory of each chunk's past.

With discounts lambda_j, each with its share of the random features, and a write rule:

    additive:         N_j <- lambda_j N_j + phi_j(k) v^T;   Psi_j <- lambda_j Psi_j + phi_j(k)
                      out_j = phi_j(q)^T N_j / (phi_j(q)^T Psi_j)
    delta:            N_j <- lambda_j N_j + beta_j phi_j(k) (v - phi_j(k)^T lambda_j N_j)^T
                      out_j = phi_j(q)^T N_j,   features of sum 1, no Psi
    recurrent_delta:  the same, and (q, k, v, beta) see the read-out of the step before

The rules are those of `components/associative_memory.py`; a discount per memory is ours for the
delta rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.components.associative_memory import (
    AdditiveMemory,
    DeltaNetState,
    FastWeightInputs,
    read_additive,
    step_delta,
    step_recurrent_delta_net,
    write_additive,
)
from mnemosyne_metatrain.optimizers.base import Theta, Tree
from mnemosyne_metatrain.optimizers.mnemosyne.config import MnemosyneConfig
from mnemosyne_metatrain.optimizers.mnemosyne.dense import Attention, dense, init_dense

# Betas start at a tenth: with discounts, old values are then replaced about as fast as they fade.
_BETA_AT_START = -2.2


class TokenMemory(NamedTuple):
    """Of the additive rule: N [C, J, M, D] and Psi [C, J, M]."""

    content: jax.Array
    mass: jax.Array


class DeltaMemory(NamedTuple):
    """Of the delta rule: N [C, J, M, D]."""

    content: jax.Array


class RecurrentDeltaMemory(NamedTuple):
    """Of the recurrent delta rule: N [C, J, M, D], and the last read-out [C, J, D]."""

    content: jax.Array
    output: jax.Array


Recall = TokenMemory | DeltaMemory | RecurrentDeltaMemory


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
        """Draws weights; a recurrent rule starts as the one that is not."""
        c = self.config
        count = len(c.discounts)
        head_key, *keys = jax.random.split(key, 1 + count)
        discounts = jnp.asarray(c.discounts)
        learned: Tree = {
            "heads": self.attention.init(head_key),
            "discounts": jnp.log(discounts) - jnp.log1p(-discounts),
        }
        if c.write_rule != "additive":
            beta = init_dense(jax.random.fold_in(head_key, 1), c.token_width, count, 0.1)
            learned["beta"] = {**beta, "b": beta["b"] + _BETA_AT_START}
        if c.write_rule == "recurrent_delta":
            outputs = 2 * c.key_width + c.memory_width + count
            learned["recurrent"] = jnp.zeros((self.width, outputs))
        fixed: Tree = {"projection": jnp.stack([self.attention.init_projection(k) for k in keys])}
        return Theta(learned, fixed)

    def empty(self, num_chunks: int) -> Recall:
        """Returns memories that hold nothing."""
        c = self.config
        shape = (num_chunks, len(c.discounts), self.attention.size)
        content = jnp.zeros((*shape, c.memory_width))
        if c.write_rule == "additive":
            return TokenMemory(content, jnp.zeros(shape))
        if c.write_rule == "delta":
            return DeltaMemory(content)
        return RecurrentDeltaMemory(content, jnp.zeros((*shape[:2], c.memory_width)))

    def step(self, theta: Theta, memory: Any, tokens: jax.Array) -> tuple[jax.Array, Any]:
        """Writes tokens [C, w] and reads them back, [C, J * D].

        Args:
            theta: Weights of this encoder.
            memory: What `empty` of the same write rule returned, or a later one.
            tokens: Tokens of all chunks.
        """
        discounts = jax.nn.sigmoid(theta.learned["discounts"])[:, None]
        rule = self.config.write_rule
        if rule == "additive":
            inputs = self._inputs(theta, tokens, None)
            written = AdditiveMemory(memory.content, memory.mass)
            written = write_additive(written, inputs.key, inputs.value, discounts)
            read, memory = read_additive(written, inputs.query), TokenMemory(*written)
        elif rule == "delta":
            inputs = self._inputs(theta, tokens, None)
            content, read = step_delta(memory.content, inputs, discounts)
            memory = DeltaMemory(content)
        else:
            state = DeltaNetState(memory.content, memory.output)

            def slow_weights(x: jax.Array, last: jax.Array) -> FastWeightInputs:
                return self._inputs(theta, x, last)

            state, read = step_recurrent_delta_net(state, slow_weights, tokens, discounts)
            memory = RecurrentDeltaMemory(*state)
        return read.reshape(tokens.shape[0], -1), memory

    def _inputs(self, theta: Theta, tokens: jax.Array, last: jax.Array | None) -> FastWeightInputs:
        """Features of queries and keys [C, J, M], values [C, J or 1, D], write strengths [C, J].

        `last` is the squashed read-out of the step before, [C, J, D], of the recurrent rule.
        """
        learned, count = theta.learned, len(self.config.discounts)
        joined = dense(learned["heads"], tokens)
        # The additive rule has no write strength.
        strength = dense(learned["beta"], tokens) if "beta" in learned else jnp.zeros(count)
        if last is not None:
            more = last.reshape(tokens.shape[0], -1) @ learned["recurrent"]
            joined, strength = joined + more[:, :-count], strength + more[:, -count:]
        heads = self.attention.split(joined)
        maps = jax.vmap(self.attention.features, in_axes=(None, None, 0), out_axes=2)
        phi_q, phi_k = maps(heads.query, heads.key, theta.fixed["projection"])
        value = heads.value[:, None, :]
        return FastWeightInputs(phi_q, phi_k, value, jax.nn.sigmoid(strength))
