"""Weights whose decoder reads what a chunk knows as it is, and whose last map is taught.

Only the decoder's last map is learned here. For that its inputs must be worth reading: the pool
passes each feature of a chunk through as one number of its token, and the decoder's hidden layer
passes tokens on, with a few curves of the clock and of the horizon, if it is told.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.optimizers.base import Theta, Tree
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne, conditions, features

NUM_OUTPUTS = 6

# Order of a chunk's own features: its statistics, its mean square against its tensor's, its log
# step size, then the conditions; see `Mnemosyne`.
_STATISTICS = features.NUM_CHUNK_STATISTICS
_LOG_STEP = _STATISTICS + 1
NUM_FEATURES = _STATISTICS + 2 + conditions.NUM_CONDITIONS
_SHARED = _STATISTICS + 2 + conditions.NUM_TENSOR_FEATURES
_LOG_AGE = _SHARED
_LEFT = _SHARED + conditions.NUM_CLOCK_FEATURES + conditions.NUM_LOSS_FEATURES
_TOLD = _LEFT + 1

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


def scaffold(optimizer: Mnemosyne, key: jax.Array) -> Theta:
    """Draws weights, and replaces the pool and the decoder's hidden layer.

    Raises:
        ValueError: If a token or the hidden layer is too narrow for all features.
    """
    c = optimizer.config
    curves = len(_TURNS) + len(_AGES)
    if c.token_width < NUM_FEATURES or c.hidden < NUM_FEATURES + curves:
        raise ValueError(
            f"teaching needs tokens of {NUM_FEATURES} and a hidden layer of "
            f"{NUM_FEATURES + curves}, got {c.token_width} and {c.hidden}"
        )
    theta = optimizer.init_theta(key)
    learned = theta.learned
    spatial = {**learned["spatial"], "pool": _pool(learned["spatial"]["pool"], c.cell_width)}
    hidden = _hidden(learned["decoder"]["hidden"], c.token_width)
    decoder = {**learned["decoder"], "hidden": hidden}
    return Theta({**learned, "spatial": spatial, "decoder": decoder}, theta.fixed)


def _pool(drawn: Tree, cell_width: int) -> Tree:
    """The chunk's own features first; what is left of the token is of its cells."""
    old = np.asarray(drawn["w"])
    weight = np.zeros_like(old)
    scale = np.sqrt(old.shape[0] / cell_width)
    weight[:cell_width, NUM_FEATURES:] = scale * old[:cell_width, NUM_FEATURES:]
    index = np.arange(NUM_FEATURES)
    weight[cell_width + index, index] = 1.0
    return {"w": jnp.asarray(weight), "b": jnp.zeros_like(drawn["b"])}


def _hidden(drawn: Tree, token_width: int) -> Tree:
    """Tokens as they are, less the log step size, which would feed back; then the curves."""
    weight = np.zeros(drawn["w"].shape, np.float32)
    bias = np.zeros(drawn["b"].shape, np.float32)
    width = weight.shape[1]
    used = min(token_width, width)
    index = np.arange(used)
    weight[index, index] = 1.0
    weight[_LOG_STEP, _LOG_STEP] = 0.0
    at = width - len(_TURNS) - len(_AGES)
    weight[:, at:] = 0.0
    told = float(np.tanh(1.0))
    for left, steepness in _TURNS:
        weight[_LEFT, at] = -steepness
        weight[_TOLD, at] = steepness * float(np.tanh(left)) / told
        at += 1
    for age in _AGES:
        weight[_LOG_AGE, at] = 8.0
        bias[at] = -8.0 * float(np.tanh(0.15 * np.log(age)))
        at += 1
    return {"w": jnp.asarray(weight), "b": jnp.asarray(bias)}


def with_policy(theta: Theta, policy: Policy, offset: jax.Array) -> Theta:
    """The same weights with a last map, whose biases are moved by an offset [6]."""
    out: dict[str, Any] = {"w": policy.weight, "b": policy.bias + offset}
    decoder = {**theta.learned["decoder"], "out": out}
    return Theta({**theta.learned, "decoder": decoder}, theta.fixed)


def read_features(theta: Theta, tokens: jax.Array) -> jax.Array:
    """What the last map reads at given tokens [..., token_width], [..., hidden].

    Context and the memory in time are left out: the hidden layer of `scaffold` does not read them.
    """
    hidden = theta.learned["decoder"]["hidden"]
    return jnp.tanh(tokens @ hidden["w"][: tokens.shape[-1]] + hidden["b"])


def feature_names(width: int) -> list[str]:
    """Names of what the last map reads, for reports."""
    names = [
        "g2/s", "cos(g,r1)", "cos(e,r2)", "cos(m,r2)", "cos(e,d)", "m2", "r2^2", "d2", "e2",
        "s/tensor", "log step", "fan in", "fan out", "size", "matrix", "log age", "start",
        "loss 0", "loss 1", "loss 2", "loss told", "left", "horizon told", "rms", "rms told",
    ]  # fmt: skip
    rest = width - len(names) - len(_TURNS) - len(_AGES)
    names += [f"cells {i}" for i in range(rest)]
    names += [f"left {turn}" for turn, _ in _TURNS] + [f"age {age:.0f}" for age in _AGES]
    return names


def fit_mask(width: int) -> NDArray[np.bool_]:
    """Which of the features may carry weight, [hidden].

    The log step size would feed back. Sizes and scales of tensors, and what is left of cells, tell
    the few nets of meta-training apart: a map that reads them learns their names. Whether a caller
    tells the scale of its parameters must not matter either.
    """
    shut = ("log step", "fan in", "fan out", "size", "rms", "rms told", "cells")
    return np.asarray([not name.startswith(shut) for name in feature_names(width)])
