"""Tasks on characters: a causal transformer, a masked one, and a recurrent net.

Held-out losses are means over 32 fixed batches of windows from the last tenth of a text: 16 windows
of 32 characters, the least here, are 16,384 predicted characters (a sixth of that for masked text).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.data.sources import VALIDATION_MODULES
from mnemosyne_metatrain.layout import Params
from mnemosyne_metatrain.suite.nets import Declaration, affine, cross_entropy, transformer
from mnemosyne_metatrain.suite.task import SuiteTask
from mnemosyne_metatrain.tasks.base import Split
from mnemosyne_metatrain.tasks.text import (
    VOCABULARY,
    docstring_text,
    manual_text,
    source_text,
    split_text,
)

_MASK = VOCABULARY


class Text(NamedTuple):
    """Characters of both splits."""

    train: NDArray[np.int32]
    held_out: NDArray[np.int32]


@cache
def manual() -> Text:
    """The reference manual."""
    return Text(*split_text(manual_text()))


@cache
def docstrings() -> Text:
    """SciPy's documentation."""
    return Text(*split_text(docstring_text()))


@cache
def other_source() -> Text:
    """Source code of modules that meta-training does not read."""
    return Text(*split_text(source_text(VALIDATION_MODULES)))


def text_windows(size: int, length: int) -> Callable[[jax.Array, Text, Split], jax.Array]:
    """Returns a drawer of windows of text, [size, length]."""

    def draw(key: jax.Array, data: Text, split: Split) -> jax.Array:
        text = jnp.asarray(data.train if split == "train" else data.held_out)
        start = jax.random.randint(key, (size,), 0, text.shape[0] - length)
        return text[start[:, None] + jnp.arange(length)]

    return draw


def gpt(
    name: str,
    width: int,
    depth: int,
    length: int,
    batch: int,
    data: Callable[[], Text],
    heads: int = 4,
) -> SuiteTask:
    """A causal transformer that predicts the next character."""
    d = Declaration()
    d.embedding("token", VOCABULARY, width, 0.5)
    d.embedding("place", length, width, 0.1)
    d.blocks("t", depth, width)
    d.matrix("out", width, VOCABULARY)

    def loss(params: Params, text: jax.Array) -> jax.Array:
        x = params["token"][text[:, :-1]] + params["place"]
        x = transformer(params, "t", x, depth, heads, causal=True)
        return cross_entropy(affine(params, "out", x), text[:, 1:])

    return SuiteTask(name, d, data, text_windows(batch, length + 1), loss)


class MaskedBatch(NamedTuple):
    """What is seen [n, length], the truth [n, length], and which places count."""

    seen: jax.Array
    truth: jax.Array
    hidden: jax.Array


def masked(
    name: str, width: int, depth: int, length: int, batch: int, data: Callable[[], Text]
) -> SuiteTask:
    """A bi-directional transformer that fills in 15 % of the characters."""
    d = Declaration()
    d.embedding("token", VOCABULARY + 1, width, 0.5)
    d.embedding("place", length, width, 0.1)
    d.blocks("t", depth, width)
    d.matrix("out", width, VOCABULARY)
    windows = text_windows(batch, length)

    def draw(key: jax.Array, text: Text, split: Split) -> MaskedBatch:
        where, hide = jax.random.split(key)
        truth = windows(where, text, split)
        hidden = jax.random.uniform(hide, truth.shape) < 0.15
        return MaskedBatch(jnp.where(hidden, _MASK, truth), truth, hidden.astype(jnp.float32))

    def loss(params: Params, b: MaskedBatch) -> jax.Array:
        x = params["token"][b.seen] + params["place"]
        x = transformer(params, "t", x, depth, 4, causal=False)
        return cross_entropy(affine(params, "out", x), b.truth, b.hidden)

    return SuiteTask(name, d, data, draw, loss)


def gru(name: str, width: int, length: int, batch: int, data: Callable[[], Text]) -> SuiteTask:
    """A gated recurrent net that predicts the next character."""
    d = Declaration()
    d.embedding("token", VOCABULARY, width, 0.5)
    d.matrix("x", width, 3 * width)
    d.matrix("h", width, 3 * width)
    d.matrix("out", width, VOCABULARY)

    def loss(params: Params, text: jax.Array) -> jax.Array:
        inputs = affine(params, "x", params["token"][text[:, :-1]])

        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            reset, keep, value = jnp.split(x, 3, axis=-1)
            reset_h, keep_h, value_h = jnp.split(affine(params, "h", h), 3, axis=-1)
            keep = jax.nn.sigmoid(keep + keep_h)
            value = jnp.tanh(value + jax.nn.sigmoid(reset + reset_h) * value_h)
            h = keep * h + (1.0 - keep) * value
            return h, h

        start = jnp.zeros((text.shape[0], width))
        _, hidden = jax.lax.scan(step, start, inputs.swapaxes(0, 1))
        return cross_entropy(affine(params, "out", hidden), text[:, 1:].swapaxes(0, 1))

    return SuiteTask(name, d, data, text_windows(batch, length + 1), loss)
