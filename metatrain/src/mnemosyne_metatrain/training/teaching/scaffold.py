"""Weights whose decoder reads what a chunk knows as it is, and whose last map is taught.

Only the decoder's last map is learned here. For that its inputs must be worth reading:

- the pool passes each feature of a chunk through as one number of its token;
- the memory in time and the context of other chunks attend alike to all they see, and their values
  are the chunk's statistics: they are running means over time, and means over the net;
- the decoder's hidden layer passes all of these on, with a few curves of the clock and of the
  horizon, if it is told.

What would tell the few nets of meta-training apart is not passed on: sizes and scales of tensors,
and what is left of cells. A map that reads them learns names, and fails on other nets. Nor is the
log step size, which would feed back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.layout import Layout
from mnemosyne_metatrain.optimizers.base import Theta, Tree
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne, conditions, features
from mnemosyne_metatrain.optimizers.mnemosyne.dense import dense
from mnemosyne_metatrain.optimizers.mnemosyne.inputs import CHUNK_INPUTS, CONDITIONS, STATISTICS
from mnemosyne_metatrain.optimizers.mnemosyne.optimizer import MnemosyneState

NUM_OUTPUTS = 6

_SHUT = ("log step", "fan in", "fan out", "size", "rms", "rms told")

# Statistics whose running mean over time, at the longest discount, is read.
_REMEMBERED = ("g2/s", "cos(g,r1)", "cos(e,r2)", "cos(e,d)", "m2")
# Statistics whose mean over the net is read.
_AROUND = ("cos(g,r1)", "cos(m,r2)", "m2", "r2^2")

# Shares of the horizon left at which a curve of it turns, and its steepness.
_TURNS = ((0.15, 20.0), (0.4, 8.0))
# Ages at which a curve of the clock turns.
_AGES = (100.0, 600.0)


class Policy(NamedTuple):
    """The decoder's last map: weights [hidden, 6] and biases [6]."""

    weight: jax.Array
    bias: jax.Array


def zero_policy(optimizer: Mnemosyne) -> Policy:
    """The policy that leaves every number at its prior."""
    return Policy(jnp.zeros((optimizer.config.hidden, NUM_OUTPUTS)), jnp.zeros(NUM_OUTPUTS))


def read_names() -> list[str]:
    """Names of what the last map reads, in order."""
    names = [name for name in CHUNK_INPUTS if name not in _SHUT]
    names += [f"{name} in time" for name in _REMEMBERED]
    names += [f"{name} around" for name in _AROUND]
    names += [f"left {turn:g}" for turn, _ in _TURNS]
    return names + [f"age {age:g}" for age in _AGES]


def scaffold(optimizer: Mnemosyne, key: jax.Array) -> Theta:
    """Draws weights, and replaces the pool, both attentions' maps, and the hidden layer.

    Raises:
        ValueError: If sizes are too small for all that is read, or the memory in time is not
            additive.
    """
    c = optimizer.config
    needed = len(read_names())
    if c.token_width < len(CHUNK_INPUTS) or c.hidden < needed or c.memory_width < len(STATISTICS):
        raise ValueError(
            f"teaching needs tokens of {len(CHUNK_INPUTS)}, values of {len(STATISTICS)} and a "
            f"hidden layer of {needed}, got {c.token_width}, {c.memory_width} and {c.hidden}"
        )
    if c.write_rule != "additive":
        raise ValueError(f"teaching needs the additive write rule, got {c.write_rule}")
    assert len(STATISTICS) == features.NUM_CHUNK_STATISTICS
    assert len(CONDITIONS) == conditions.NUM_CONDITIONS
    theta = optimizer.init_theta(key)
    learned = theta.learned
    spatial, temporal, context = learned["spatial"], learned["temporal"], learned["context"]
    return Theta(
        {
            **learned,
            "spatial": {**spatial, "pool": _pool(spatial["pool"], c.cell_width)},
            "temporal": {**temporal, "heads": _values(temporal["heads"], 1, c.memory_width)},
            "context": {**context, "heads": _values(context["heads"], 2, c.memory_width)},
            "decoder": {**learned["decoder"], "hidden": _hidden(optimizer)},
        },
        theta.fixed,
    )


def _pool(drawn: Tree, cell_width: int) -> Tree:
    """The chunk's own features first; what is left of the token is of its cells."""
    old = np.asarray(drawn["w"])
    weight = np.zeros_like(old)
    count = len(CHUNK_INPUTS)
    scale = np.sqrt(old.shape[0] / cell_width)
    weight[:cell_width, count:] = scale * old[:cell_width, count:]
    index = np.arange(count)
    weight[cell_width + index, index] = 1.0
    return {"w": jnp.asarray(weight), "b": jnp.zeros_like(drawn["b"])}


def _values(drawn: Tree, heads: int, width: int) -> Tree:
    """Heads with zero queries and keys, whose values are the statistics."""
    weight = np.zeros(drawn["w"].shape, np.float32)
    each = weight.shape[1] // heads
    index = np.arange(len(STATISTICS))
    for head in range(heads):
        weight[index, head * each + each - width + index] = 1.0
    return {"w": jnp.asarray(weight), "b": jnp.zeros_like(drawn["b"])}


def _hidden(optimizer: Mnemosyne) -> Tree:
    """The hidden layer; units beyond `read_names` read nothing."""
    c = optimizer.config
    weight = np.zeros((optimizer.decoder.inputs, c.hidden), np.float32)
    bias = np.zeros(c.hidden, np.float32)
    longest = int(np.argmax(c.discounts))
    in_time = c.token_width + longest * c.memory_width
    around = c.token_width + optimizer.temporal.width + c.memory_width
    sources = [i for i, name in enumerate(CHUNK_INPUTS) if name not in _SHUT]
    sources += [in_time + STATISTICS.index(name) for name in _REMEMBERED]
    sources += [around + STATISTICS.index(name) for name in _AROUND]
    for unit, source in enumerate(sources):
        weight[source, unit] = 1.0
    unit = len(sources)
    for left, steepness in _TURNS:
        weight[CHUNK_INPUTS.index("left"), unit] = -steepness
        weight[CHUNK_INPUTS.index("horizon told"), unit] = steepness * np.tanh(left) / np.tanh(1.0)
        unit += 1
    for age in _AGES:
        weight[CHUNK_INPUTS.index("log age"), unit] = 8.0
        bias[unit] = -8.0 * np.tanh(0.15 * np.log(age))
        unit += 1
    return {"w": jnp.asarray(weight), "b": jnp.asarray(bias)}


def with_policy(theta: Theta, policy: Policy, offset: jax.Array) -> Theta:
    """The same weights with a last map, whose biases are moved by an offset [6]."""
    out: dict[str, Any] = {"w": policy.weight, "b": policy.bias + offset}
    decoder = {**theta.learned["decoder"], "out": out}
    return Theta({**theta.learned, "decoder": decoder}, theta.fixed)


def read_features(
    optimizer: Mnemosyne, theta: Theta, layout: Layout, state: MnemosyneState
) -> jax.Array:
    """What the last map is about to read after a state, [chunks, hidden].

    It is as if the next step had the tokens of the last one.
    """
    learned, fixed = theta.learned, theta.fixed
    memory = Theta(learned["temporal"], fixed["temporal"])
    recalled, _ = optimizer.temporal.step(memory, state.recall, state.tokens)
    context = optimizer.context.encode(
        Theta(learned["context"], fixed["context"]), fixed["knobs"], layout, state.tokens
    )
    joined = jnp.concatenate([state.tokens, recalled, context], axis=-1)
    return jnp.tanh(dense(learned["decoder"]["hidden"], joined))


def used_units(optimizer: Mnemosyne) -> NDArray[np.bool_]:
    """Which hidden units read something, [hidden]."""
    return np.arange(optimizer.config.hidden) < len(read_names())
