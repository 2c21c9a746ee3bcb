"""Tasks on small grey images: nets of several kinds on 8 x 8 pixels."""

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
    """Images [n, 64] and labels [n] of both splits."""

    train: NDArray[np.float32]
    train_labels: NDArray[np.int32]
    held_out: NDArray[np.float32]
    held_out_labels: NDArray[np.int32]


class ImageBatch(NamedTuple):
    """Images [n, 64] and labels [n]."""

    images: jax.Array
    labels: jax.Array


@cache
def digits() -> Images:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8: 1,347 to train on, 450 held out."""
    raw = load_arrays("digits")
    order = np.random.default_rng(0).permutation(len(raw["labels"]))
    x = ((raw["images"][order] / 16.0 - 0.3) / 0.38).astype(np.float32)
    y = raw["labels"][order].astype(np.int32)
    return Images(x[:1347], y[:1347], x[1347:], y[1347:])


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
        labels = jnp.asarray(y)[index]
        noisy = jax.random.uniform(flip, (size,)) < noise
        random_labels = jax.random.randint(other, (size,), 0, CLASSES)
        return ImageBatch(jnp.asarray(x)[index], jnp.where(noisy, random_labels, labels))

    return draw


def _classifier(
    name: str,
    declaration: Declaration,
    logits: Callable[[Params, jax.Array], jax.Array],
    data: Callable[[], Images],
    noise: float,
) -> SuiteTask:
    def loss(params: Params, batch: ImageBatch) -> jax.Array:
        return cross_entropy(logits(params, batch.images), batch.labels)

    return SuiteTask(name, declaration, data, image_batches(64, noise), loss)


def mlp(name: str, widths: tuple[int, ...], data: Callable[[], Images], noise: float) -> SuiteTask:
    """A perceptron with ReLU."""
    sizes = (SIDE * SIDE, *widths, CLASSES)
    d = Declaration()
    for i in range(len(sizes) - 1):
        d.matrix(f"l{i}", sizes[i], sizes[i + 1], 2.0**0.5)

    def logits(params: Params, x: jax.Array) -> jax.Array:
        for i in range(len(widths)):
            x = jax.nn.relu(affine(params, f"l{i}", x))
        return affine(params, f"l{len(widths)}", x)

    return _classifier(name, d, logits, data, noise)


def conv(name: str, channels: int, data: Callable[[], Images], noise: float) -> SuiteTask:
    """Two convolutions, the second of stride 2, and a perceptron's last layer."""
    d = Declaration()
    d.convolution("c0", 3, 1, channels)
    d.convolution("c1", 3, channels, 2 * channels)
    d.matrix("out", SIDE * SIDE // 4 * 2 * channels, CLASSES)

    def logits(params: Params, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(convolve(params, "c0", x.reshape(-1, SIDE, SIDE, 1)))
        x = jax.nn.relu(convolve(params, "c1", x, stride=2))
        return affine(params, "out", x.reshape(x.shape[0], -1))

    return _classifier(name, d, logits, data, noise)


def _tokens(x: jax.Array) -> jax.Array:
    """Images as 16 patches of 2 x 2."""
    x = x.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4)
    return x.reshape(x.shape[0], 16, 4)


def vit(name: str, width: int, depth: int, data: Callable[[], Images], noise: float) -> SuiteTask:
    """A vision transformer with mean pooling."""
    d = Declaration()
    d.matrix("patch", 4, width)
    d.embedding("place", 16, width, 0.1)
    d.blocks("t", depth, width)
    d.matrix("out", width, CLASSES)

    def logits(params: Params, x: jax.Array) -> jax.Array:
        y = affine(params, "patch", _tokens(x)) + params["place"]
        y = transformer(params, "t", y, depth, 4, causal=False)
        return affine(params, "out", jnp.mean(y, axis=1))

    return _classifier(name, d, logits, data, noise)


def mixer(name: str, width: int, depth: int, data: Callable[[], Images], noise: float) -> SuiteTask:
    """An MLP-mixer."""
    d = Declaration()
    d.matrix("patch", 4, width)
    for i in range(depth):
        d.matrix(f"m{i}.t1", 16, 32)
        d.matrix(f"m{i}.t2", 32, 16)
        d.matrix(f"m{i}.c1", width, 2 * width)
        d.matrix(f"m{i}.c2", 2 * width, width)
    d.matrix("out", width, CLASSES)

    def logits(params: Params, x: jax.Array) -> jax.Array:
        y = affine(params, "patch", _tokens(x))
        for i in range(depth):
            z = normalize(y).swapaxes(1, 2)
            z = affine(params, f"m{i}.t2", jax.nn.gelu(affine(params, f"m{i}.t1", z)))
            y = y + z.swapaxes(1, 2)
            z = jax.nn.gelu(affine(params, f"m{i}.c1", normalize(y)))
            y = y + affine(params, f"m{i}.c2", z)
        return affine(params, "out", jnp.mean(normalize(y), axis=1))

    return _classifier(name, d, logits, data, noise)


def autoencoder(name: str, code: int, data: Callable[[], Images]) -> SuiteTask:
    """A perceptron that squeezes images through a few numbers; the loss is a squared error."""
    sizes = (64, 48, code, 48, 64)
    d = Declaration()
    for i in range(4):
        d.matrix(f"l{i}", sizes[i], sizes[i + 1])

    def loss(params: Params, batch: ImageBatch) -> jax.Array:
        x = batch.images
        for i in range(3):
            x = jnp.tanh(affine(params, f"l{i}", x))
        return jnp.mean((affine(params, "l3", x) - batch.images) ** 2)

    return SuiteTask(name, d, data, image_batches(64), loss)
