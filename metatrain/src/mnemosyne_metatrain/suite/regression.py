"""Regressions on data of their own: a photograph without its noise, heights from places."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.data.cache import load_arrays
from mnemosyne_metatrain.layout import Params
from mnemosyne_metatrain.suite.nets import Declaration, affine, convolve
from mnemosyne_metatrain.suite.task import SuiteTask
from mnemosyne_metatrain.tasks.bank import photograph
from mnemosyne_metatrain.tasks.base import Split

_PATCH = 12
_NOISE = 0.5
_FREQUENCIES = 32


class Examples(NamedTuple):
    """Inputs and targets of both splits."""

    train: NDArray[np.float32]
    train_targets: NDArray[np.float32]
    held_out: NDArray[np.float32]
    held_out_targets: NDArray[np.float32]


class Pair(NamedTuple):
    """Inputs and targets of a batch."""

    inputs: jax.Array
    targets: jax.Array


@cache
def portrait() -> NDArray[np.float32]:
    """Matplotlib's photograph, grey, about unit variance, [600, 512]."""
    grey = load_arrays("portrait")["image"].astype(np.float64).mean(axis=-1)
    return np.asarray((grey - grey.mean()) / grey.std(), np.float32)


def denoiser(name: str, channels: int) -> SuiteTask:
    """A convolutional net that takes fresh noise from patches of a photograph.

    Patches of the lower fifth are held out: 32 batches of 64, drawn once.
    """
    d = Declaration()
    d.convolution("c0", 3, 1, channels)
    d.convolution("c1", 3, channels, channels)
    d.convolution("c2", 3, channels, 1)

    def draw(key: jax.Array, image: NDArray[np.float32], split: Split) -> Pair:
        low, high = (0, 480 - _PATCH) if split == "train" else (480, 600 - _PATCH)
        down, right, noise = jax.random.split(key, 3)
        rows = jax.random.randint(down, (64, 1, 1), low, high)
        columns = jax.random.randint(right, (64, 1, 1), 0, 512 - _PATCH)
        steps = jnp.arange(_PATCH)
        clean = jnp.asarray(image)[rows + steps[:, None], columns + steps[None, :]]
        return Pair(clean + _NOISE * jax.random.normal(noise, clean.shape), clean)

    def loss(params: Params, batch: Pair) -> jax.Array:
        x = jax.nn.relu(convolve(params, "c0", batch.inputs[..., None]))
        x = jax.nn.relu(convolve(params, "c1", x))
        cleaned = batch.inputs + convolve(params, "c2", x)[..., 0]
        return jnp.mean((cleaned - batch.targets) ** 2)

    return SuiteTask(name, d, portrait, draw, loss)


def _as_waves(heights: NDArray[np.float64], seed: int) -> Examples:
    """Places of a grid as random Fourier features [n, 64], and heights [n] of unit variance."""
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, n) for n in heights.shape), indexing="ij")
    phases = np.stack([rows, columns], axis=-1).reshape(-1, 2) @ rng.normal(
        0.0, 6.0, (2, _FREQUENCIES)
    )
    x = np.concatenate([np.sin(phases), np.cos(phases)], axis=1).astype(np.float32)
    y = ((heights - heights.mean()) / heights.std()).reshape(-1).astype(np.float32)
    order = rng.permutation(len(y))
    train, held = order[:-2048], order[-2048:]
    return Examples(x[train], y[train], x[held], y[held])


@cache
def landscape() -> Examples:
    """Heights of a landscape."""
    return _as_waves(load_arrays("elevation")["metres"].astype(np.float64), 4)


@cache
def flower() -> Examples:
    """Brightness of every third pixel of the second photograph."""
    return _as_waves(photograph("flower.jpg")[::3, ::3], 6)


def places(name: str, width: int, data: Callable[[], Examples]) -> SuiteTask:
    """A perceptron from places to heights, without noise; 2,048 places are held out."""
    d = Declaration()
    sizes = (2 * _FREQUENCIES, width, width, width, 1)
    for i in range(4):
        d.matrix(f"l{i}", sizes[i], sizes[i + 1], 2.0**0.5 if i < 3 else 1.0)

    def draw(key: jax.Array, examples: Examples, split: Split) -> Pair:
        x, y = (
            (examples.train, examples.train_targets)
            if split == "train"
            else (examples.held_out, examples.held_out_targets)
        )
        index = jax.random.randint(key, (128,), 0, x.shape[0])
        return Pair(jnp.asarray(x)[index], jnp.asarray(y)[index])

    def fixed(examples: Examples) -> Pair:
        held = jnp.asarray(examples.held_out).reshape(16, 128, -1)
        return Pair(held, jnp.asarray(examples.held_out_targets).reshape(16, 128))

    def loss(params: Params, batch: Pair) -> jax.Array:
        x = batch.inputs
        for i in range(3):
            x = jax.nn.relu(affine(params, f"l{i}", x))
        return jnp.mean((affine(params, "l3", x)[:, 0] - batch.targets) ** 2)

    return SuiteTask(name, d, data, draw, loss, fixed=fixed)
