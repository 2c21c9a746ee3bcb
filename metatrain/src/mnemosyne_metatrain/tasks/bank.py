"""Data for meta-training: many small classification sets of 64 inputs and 10 classes.

Three kinds: labels given by random nets on inputs with a power-law spectrum, mixtures of Gaussian
clusters, and patches of a photograph that ships with scikit-learn, with questions about the patch
as labels. Every set keeps noise in its labels, so that losses have floors. The digits and the other
photograph are left for the sets that optimizers are judged on.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.data.cache import load_arrays

NUM_INPUTS = 64
NUM_CLASSES = 10
NUM_EXAMPLES = 12288
TRAIN_EXAMPLES = 10240

# Sets come in turns of four: two teachers, a mixture, patches.
_KINDS = 4
_MIXTURE = 2

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


class Bank(NamedTuple):
    """Inputs [sets, examples, 64], about unit variance, and labels [sets, examples]."""

    inputs: Floats
    labels: Ints


def _standardize(x: NDArray[np.float64]) -> Floats:
    x = x - x.mean(axis=0)
    return np.asarray(x / (x.std(axis=0) + 1e-6), np.float32)


def _quantile_labels(score: NDArray[np.float64]) -> Ints:
    """Ten classes of equal size by rank."""
    order = np.argsort(np.argsort(score))
    return (order * NUM_CLASSES // len(score)).astype(np.int32)


def _teacher(rng: np.random.Generator) -> tuple[Floats, Ints]:
    """Labels of a random net on inputs whose covariance falls with a power."""
    power = rng.uniform(0.0, 1.2)
    scales = np.arange(1, NUM_INPUTS + 1) ** -power
    rotation = np.linalg.qr(rng.normal(size=(NUM_INPUTS, NUM_INPUTS)))[0]
    latent = rng.normal(size=(NUM_EXAMPLES, NUM_INPUTS)) * scales
    x = _standardize(latent @ rotation)
    width = int(rng.integers(8, 64))
    hidden = np.tanh(x @ rng.normal(size=(NUM_INPUTS, width)) * rng.uniform(0.5, 2.0) / 8)
    logits = hidden @ rng.normal(size=(width, NUM_CLASSES)) / np.sqrt(width)
    logits += rng.uniform(0.0, 0.3) * logits.std() * rng.normal(size=logits.shape)
    logits -= logits.mean(axis=0)
    return x, logits.argmax(axis=1).astype(np.int32)


def _mixture(rng: np.random.Generator) -> tuple[Floats, Ints]:
    """Several clusters a class, more or less apart, on a subspace plus noise."""
    per_class, rank = int(rng.integers(1, 6)), int(rng.integers(4, 32))
    centers = rng.normal(size=(NUM_CLASSES * per_class, rank)) * rng.uniform(0.8, 2.5)
    which = rng.integers(0, len(centers), NUM_EXAMPLES)
    latent = centers[which] + rng.normal(size=(NUM_EXAMPLES, rank))
    x = latent @ rng.normal(size=(rank, NUM_INPUTS)) / np.sqrt(rank)
    x += rng.uniform(0.05, 0.5) * rng.normal(size=x.shape)
    return _standardize(x), (which % NUM_CLASSES).astype(np.int32)


def photograph(name: str) -> NDArray[np.float64]:
    """A photograph that ships with scikit-learn, grey, in [0, 1]."""
    pixels = load_arrays(name.removesuffix(".jpg"))["image"]
    return np.asarray(np.mean(pixels, axis=-1) / 255.0, np.float64)


def _patches(rng: np.random.Generator, image: NDArray[np.float64]) -> tuple[Floats, Ints]:
    """Patches of 8 x 8 pixels, with a question: a pixel ahead, the contrast, or the height."""
    stride = int(rng.integers(1, 4))
    span = 9 * stride
    rows = rng.integers(0, image.shape[0] - span, NUM_EXAMPLES)
    columns = rng.integers(0, image.shape[1] - span, NUM_EXAMPLES)
    steps = stride * np.arange(8)
    patches = image[
        rows[:, None, None] + steps[None, :, None], columns[:, None, None] + steps[None, None, :]
    ]
    ahead = image[rows + int(rng.integers(0, 8)) * stride, columns + 8 * stride]
    kind = int(rng.integers(0, 3))
    score = [ahead, np.log(patches.std(axis=(1, 2)) + 1e-3), rows.astype(float)][kind]
    return _standardize(patches.reshape(NUM_EXAMPLES, -1)), _quantile_labels(score)


def mixture_set(index: jax.Array) -> jax.Array:
    """The mixture that stands nearest to a set of the bank, which may be of any kind."""
    return index - index % _KINDS + _MIXTURE


@cache
def training_bank(num_sets: int = 40, seed: int = 1) -> Bank:
    """Makes the bank: half teachers, a quarter mixtures, a quarter patches."""
    rng = np.random.default_rng(seed)
    image = photograph("china.jpg")
    sets = []
    for index in range(num_sets):
        if index % _KINDS < _MIXTURE:
            sets.append(_teacher(rng))
        elif index % _KINDS == _MIXTURE:
            sets.append(_mixture(rng))
        else:
            sets.append(_patches(rng, image))
    return Bank(np.stack([x for x, _ in sets]), np.stack([y for _, y in sets]))
