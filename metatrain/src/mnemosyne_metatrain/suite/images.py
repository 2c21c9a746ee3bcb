"""Tasks on small grey images: nets of several kinds on 8 x 8 or 12 x 12 pixels."""

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
from mnemosyne_metatrain.suite.nets import (
    Declaration,
    affine,
    convolve,
    cross_entropy,
    transformer,
)
from mnemosyne_metatrain.suite.task import SuiteTask
from mnemosyne_metatrain.tasks.bank import photograph
from mnemosyne_metatrain.tasks.base import Split
from mnemosyne_metatrain.tasks.mlp import normalize

SIDE, CLASSES = 8, 10


class Images(NamedTuple):
    """Images [n, pixels] and labels [n] of both splits."""

    train: NDArray[np.float32]
    train_labels: NDArray[np.int32]
    held_out: NDArray[np.float32]
    held_out_labels: NDArray[np.int32]


class ImageBatch(NamedTuple):
    """Images [n, pixels] and labels [n]."""

    images: jax.Array
    labels: jax.Array


@cache
def digits() -> Images:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8: 1,347 to train on, 450 held out.

    There are no more of them: losses on them are means over 448 examples, not 2,000.
    """
    raw = load_arrays("digits")
    order = np.random.default_rng(0).permutation(len(raw["labels"]))
    x = ((raw["images"][order] / 16.0 - 0.3) / 0.38).astype(np.float32)
    y = raw["labels"][order].astype(np.int32)
    return Images(x[:1347], y[:1347], x[1347:], y[1347:])


@cache
def mnist() -> Images:
    """5,000 of MNIST's digits, cut to 24 x 24 and halved to 12 x 12; 2,048 are held out."""
    raw = load_arrays("mnist")
    order = np.random.default_rng(3).permutation(len(raw["labels"]))
    x = raw["images"][order, 2:26, 2:26].reshape(-1, 12, 2, 12, 2).mean(axis=(2, 4)) / 255.0
    x = ((x - x.mean()) / x.std()).reshape(len(x), -1).astype(np.float32)
    y = raw["labels"][order].astype(np.int32)
    return Images(x[:-2048], y[:-2048], x[-2048:], y[-2048:])


@cache
def flower_patches() -> Images:
    """Patches of the second photograph; the label is the decile of the pixel below."""
    image = photograph("flower.jpg")
    rng = np.random.default_rng(2)
    count = 8192
    rows = rng.integers(0, image.shape[0] - 20, count)
    columns = rng.integers(0, image.shape[1] - 20, count)
    steps = 2 * np.arange(SIDE)
    x = image[
        rows[:, None, None] + steps[None, :, None], columns[:, None, None] + steps[None, None, :]
    ].reshape(count, -1)
    below = image[rows + 18, columns + 8]
    labels = np.argsort(np.argsort(below)) * CLASSES // count
    x = ((x - x.mean()) / x.std()).astype(np.float32)
    y = labels.astype(np.int32)
    return Images(x[:6144], y[:6144], x[6144:], y[6144:])


def image_batches(
    size: int, noise: float = 0.0
) -> Callable[[jax.Array, Images, Split], ImageBatch]:
    """Returns a drawer of batches; a share `noise` of labels is replaced, in both splits."""

    def draw(key: jax.Array, data: Images, split: Split) -> ImageBatch:
        x, y = (
            (data.train, data.train_labels)
            if split == "train"
            else (data.held_out, data.held_out_labels)
        )
        pick, flip, other = jax.random.split(key, 3)
        index = jax.random.randint(pick, (size,), 0, x.shape[0])
        labels = _flip(flip, other, jnp.asarray(y)[index], noise)
        return ImageBatch(jnp.asarray(x)[index], labels)

    return draw


def _flip(flip: jax.Array, other: jax.Array, labels: jax.Array, noise: float) -> jax.Array:
    """Replaces a share of labels by random ones."""
    noisy = jax.random.uniform(flip, labels.shape) < noise
    return jnp.where(noisy, jax.random.randint(other, labels.shape, 0, CLASSES), labels)


def every_image(size: int, noise: float = 0.0) -> Callable[[Images], ImageBatch]:
    """Returns what lists every held-out image once, in batches; noisy labels stay as drawn."""

    def fixed(data: Images) -> ImageBatch:
        batches = data.held_out.shape[0] // size
        x = jnp.asarray(data.held_out)[: batches * size].reshape(batches, size, -1)
        y = jnp.asarray(data.held_out_labels)[: batches * size].reshape(batches, size)
        flip, other = jax.random.split(jax.random.key(998))
        return ImageBatch(x, _flip(flip, other, y, noise))

    return fixed


def _classifier(
    name: str,
    declaration: Declaration,
    logits: Callable[[Params, jax.Array], jax.Array],
    data: Callable[[], Images],
    noise: float,
) -> SuiteTask:
    def loss(params: Params, batch: ImageBatch) -> jax.Array:
        return cross_entropy(logits(params, batch.images), batch.labels)

    fixed = every_image(64, noise)
    return SuiteTask(name, declaration, data, image_batches(64, noise), loss, fixed=fixed)


def mlp(
    name: str,
    widths: tuple[int, ...],
    data: Callable[[], Images],
    noise: float,
    side: int = SIDE,
) -> SuiteTask:
    """A perceptron with ReLU."""
    sizes = (side * side, *widths, CLASSES)
    d = Declaration()
    for i in range(len(sizes) - 1):
        d.matrix(f"l{i}", sizes[i], sizes[i + 1], 2.0**0.5)

    def logits(params: Params, x: jax.Array) -> jax.Array:
        for i in range(len(widths)):
            x = jax.nn.relu(affine(params, f"l{i}", x))
        return affine(params, f"l{len(widths)}", x)

    return _classifier(name, d, logits, data, noise)


def conv(
    name: str, channels: int, data: Callable[[], Images], noise: float, side: int = SIDE
) -> SuiteTask:
    """Two convolutions, the second of stride 2, and a perceptron's last layer."""
    d = Declaration()
    d.convolution("c0", 3, 1, channels)
    d.convolution("c1", 3, channels, 2 * channels)
    d.matrix("out", side * side // 4 * 2 * channels, CLASSES)

    def logits(params: Params, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(convolve(params, "c0", x.reshape(-1, side, side, 1)))
        x = jax.nn.relu(convolve(params, "c1", x, stride=2))
        return affine(params, "out", x.reshape(x.shape[0], -1))

    return _classifier(name, d, logits, data, noise)


def _tokens(x: jax.Array, side: int) -> jax.Array:
    """Images as 16 square patches."""
    patch = side // 4
    x = x.reshape(-1, 4, patch, 4, patch).transpose(0, 1, 3, 2, 4)
    return x.reshape(x.shape[0], 16, patch * patch)


def vit(
    name: str,
    width: int,
    depth: int,
    data: Callable[[], Images],
    noise: float,
    side: int = SIDE,
) -> SuiteTask:
    """A vision transformer with mean pooling."""
    d = Declaration()
    d.matrix("patch", (side // 4) ** 2, width)
    d.embedding("place", 16, width, 0.1)
    d.blocks("t", depth, width)
    d.matrix("out", width, CLASSES)

    def logits(params: Params, x: jax.Array) -> jax.Array:
        y = affine(params, "patch", _tokens(x, side)) + params["place"]
        y = transformer(params, "t", y, depth, 4, causal=False)
        return affine(params, "out", jnp.mean(y, axis=1))

    return _classifier(name, d, logits, data, noise)


def mixer(
    name: str,
    width: int,
    depth: int,
    data: Callable[[], Images],
    noise: float,
    side: int = SIDE,
) -> SuiteTask:
    """An MLP-mixer."""
    d = Declaration()
    d.matrix("patch", (side // 4) ** 2, width)
    for i in range(depth):
        d.matrix(f"m{i}.t1", 16, 32)
        d.matrix(f"m{i}.t2", 32, 16)
        d.matrix(f"m{i}.c1", width, 2 * width)
        d.matrix(f"m{i}.c2", 2 * width, width)
    d.matrix("out", width, CLASSES)

    def logits(params: Params, x: jax.Array) -> jax.Array:
        y = affine(params, "patch", _tokens(x, side))
        for i in range(depth):
            z = normalize(y).swapaxes(1, 2)
            z = affine(params, f"m{i}.t2", jax.nn.gelu(affine(params, f"m{i}.t1", z)))
            y = y + z.swapaxes(1, 2)
            z = jax.nn.gelu(affine(params, f"m{i}.c1", normalize(y)))
            y = y + affine(params, f"m{i}.c2", z)
        return affine(params, "out", jnp.mean(normalize(y), axis=1))

    return _classifier(name, d, logits, data, noise)


def autoencoder(name: str, code: int, data: Callable[[], Images], side: int = SIDE) -> SuiteTask:
    """A perceptron that squeezes images through a few numbers; the loss is a squared error."""
    sizes = (side * side, 48, code, 48, side * side)
    d = Declaration()
    for i in range(4):
        d.matrix(f"l{i}", sizes[i], sizes[i + 1])

    def loss(params: Params, batch: ImageBatch) -> jax.Array:
        x = batch.images
        for i in range(3):
            x = jnp.tanh(affine(params, f"l{i}", x))
        return jnp.mean((affine(params, "l3", x) - batch.images) ** 2)

    return SuiteTask(name, d, data, image_batches(64), loss, fixed=every_image(64))
