"""A perceptron that predicts the next character from a few: gradients of embeddings are sparse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.layout import ParameterSpec, Params
from mnemosyne_metatrain.tasks.base import Split
from mnemosyne_metatrain.tasks.mlp import activate, draw_log_scale, normalize
from mnemosyne_metatrain.tasks.text import VOCABULARY, source_text, split_text

_MODULES = ("argparse", "typing", "inspect", "tarfile", "subprocess", "ast")


class DrawnTokenMlp(NamedTuple):
    """What differs between tasks."""

    activation: jax.Array
    normalized: jax.Array
    init_scale: jax.Array
    batch_size: jax.Array
    permutation: jax.Array
    log_scale: jax.Array


class TextData(NamedTuple):
    """Characters of the two splits."""

    train: jax.Array
    validation: jax.Array


class TokenBatch(NamedTuple):
    """Contexts [n, length], targets [n], weights [n] of mean 1."""

    context: jax.Array
    target: jax.Array
    weights: jax.Array


@dataclass(frozen=True)
class TokenMlpFamily:
    """Embeds `context` characters, joins them, and predicts the next.

    Attributes:
        context: Characters seen.
        width: Width of an embedding.
        hidden: Hidden width.
        max_batch: Examples in a batch.
    """

    context: int = 4
    width: int = 12
    hidden: int = 48
    max_batch: int = 64

    @property
    def name(self) -> str:
        """Name in configurations and reports."""
        return f"token_mlp_{self.width}_{self.hidden}"

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """Embedding, two matrices and biases."""
        n = self.context * self.width
        return (
            ParameterSpec("e", (VOCABULARY, self.width)),
            ParameterSpec("w0", (n, self.hidden), n, self.hidden),
            ParameterSpec("b0", (self.hidden,)),
            ParameterSpec("w1", (self.hidden, VOCABULARY), self.hidden, VOCABULARY, True),
            ParameterSpec("b1", (VOCABULARY,)),
        )

    def data(self) -> TextData:
        """Source code of a few modules."""
        train, validation = split_text(source_text(_MODULES))
        return TextData(jnp.asarray(train), jnp.asarray(validation))

    def draw(self, key: jax.Array) -> DrawnTokenMlp:
        """Draws a task; the permutation renames characters."""
        k = jax.random.split(key, 6)
        log_batch = jax.random.uniform(k[3], minval=4.0, maxval=6.01)
        return DrawnTokenMlp(
            activation=jax.random.randint(k[0], (), 0, 5),
            normalized=jax.random.uniform(k[1]) < 0.5,
            init_scale=jnp.exp(0.35 * jax.random.normal(k[2])),
            batch_size=jnp.floor(2.0**log_batch),
            permutation=jax.random.permutation(k[4], VOCABULARY),
            log_scale=draw_log_scale(k[5], len(self.specs), 0.2, 1.0),
        )

    def init(self, key: jax.Array, drawn: DrawnTokenMlp) -> Params:
        """Embeddings of rms 0.5, matrices of rms 1/sqrt(fan-in), zero biases."""
        params = {}
        for i, spec in enumerate(self.specs):
            rms = 0.0 if len(spec.shape) == 1 else 0.5 if spec.name == "e" else spec.fan_in**-0.5
            scale = rms * drawn.init_scale * jnp.exp(-drawn.log_scale[i])
            params[spec.name] = scale * jax.random.normal(jax.random.fold_in(key, i), spec.shape)
        return params

    def batch(
        self, key: jax.Array, drawn: DrawnTokenMlp, data: TextData, split: Split
    ) -> TokenBatch:
        """Draws places of the text."""
        text = data.train if split == "train" else data.validation
        start = jax.random.randint(key, (self.max_batch,), 0, text.shape[0] - self.context - 1)
        window = text[start[:, None] + jnp.arange(self.context + 1)]
        window = drawn.permutation[window]
        used = jnp.arange(self.max_batch) < drawn.batch_size
        if split == "validation":
            used = jnp.ones_like(used)
        return TokenBatch(window[:, :-1], window[:, -1], used / jnp.mean(used))

    def loss(self, params: Params, batch: TokenBatch, drawn: DrawnTokenMlp) -> jax.Array:
        """Cross-entropy."""
        scaled = {
            spec.name: params[spec.name] * jnp.exp(drawn.log_scale[i])
            for i, spec in enumerate(self.specs)
        }
        x = scaled["e"][batch.context].reshape(batch.context.shape[0], -1)
        y = x @ scaled["w0"] + scaled["b0"]
        y = activate(jnp.where(drawn.normalized, normalize(y), y), drawn.activation)
        logits = jax.nn.log_softmax(y @ scaled["w1"] + scaled["b1"])
        picked = jnp.take_along_axis(logits, batch.target[:, None], axis=-1)[:, 0]
        return -jnp.mean(batch.weights * picked)
