"""Multi-layer perceptrons: the family that the published optimizer is meta-trained on.

Widths and depth belong to the family. Activation, normalization, residual connections, scale at the
start, loss, noise of labels, batch size, data and a reparametrization belong to the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.layout import ParameterSpec, Params
from mnemosyne_metatrain.tasks.bank import (
    NUM_CLASSES,
    NUM_EXAMPLES,
    NUM_INPUTS,
    TRAIN_EXAMPLES,
    Bank,
    mixture_set,
    training_bank,
)
from mnemosyne_metatrain.tasks.base import Split

_NUM_ACTIVATIONS = 5


class DrawnMlp(NamedTuple):
    """What differs between tasks; all scalars but `log_scale`, one a tensor."""

    dataset: jax.Array
    activation: jax.Array
    normalized: jax.Array
    residual: jax.Array
    squared_loss: jax.Array
    label_noise: jax.Array
    batch_size: jax.Array
    train_examples: jax.Array
    init_scale: jax.Array
    input_scale: jax.Array
    log_scale: jax.Array


class ClassifierBatch(NamedTuple):
    """Inputs [n, 64], labels [n], weights [n] of mean 1."""

    inputs: jax.Array
    labels: jax.Array
    weights: jax.Array


def activate(x: jax.Array, kind: jax.Array) -> jax.Array:
    """Applies one of five activations, chosen by an array."""
    choices = [jax.nn.relu(x), jnp.tanh(x), jax.nn.gelu(x), jax.nn.silu(x), jax.nn.leaky_relu(x)]
    result = choices[0]
    for index in range(1, _NUM_ACTIVATIONS):
        result = jnp.where(kind == index, choices[index], result)
    return result


def normalize(x: jax.Array) -> jax.Array:
    """Layer normalization without parameters."""
    centered = x - jnp.mean(x, axis=-1, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + 1e-5)


def draw_log_scale(key: jax.Array, num_tensors: int, share: float, spread: float) -> jax.Array:
    """Log scales of a reparametrization w = e^c v, one a tensor; 0 for tasks without it."""
    which, value = jax.random.split(key)
    scales = jax.random.uniform(value, (num_tensors,), minval=-spread, maxval=spread)
    return jnp.where(jax.random.uniform(which) < share, scales, 0.0)


@dataclass(frozen=True)
class MlpFamily:
    """Perceptrons with given hidden widths.

    Attributes:
        widths: Hidden widths.
        max_batch: Examples in a batch, of which a task may use fewer.
        reparametrized: Share of tasks with a reparametrization.
        spread: Bound of its log scales.
        min_examples: Least training examples of a task; with few, held-out losses turn up again.
        max_examples: Most training examples of a task.
        clean: Whether tasks are the bank's mixtures alone, with no noise in their labels.
    """

    widths: tuple[int, ...]
    max_batch: int = 64
    reparametrized: float = 0.2
    spread: float = 1.0
    min_examples: int = 4096
    max_examples: int = TRAIN_EXAMPLES
    clean: bool = False

    @property
    def name(self) -> str:
        """Name in configurations and reports."""
        return ("clean_mlp_" if self.clean else "mlp_") + "_".join(str(w) for w in self.widths)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of all layers, input and output included."""
        return (NUM_INPUTS, *self.widths, NUM_CLASSES)

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """A matrix and a bias a layer; every other matrix is stored transposed."""
        result = []
        for i, (n, m) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            flip = (i + len(self.widths)) % 2 == 1
            result.append(ParameterSpec(f"w{i}", (n, m), n, m, transposed=flip))
            result.append(ParameterSpec(f"b{i}", (m,)))
        return tuple(result)

    def data(self) -> Bank:
        """The bank of classification sets."""
        return training_bank()

    def draw(self, key: jax.Array) -> DrawnMlp:
        """Draws a task."""
        k = jax.random.split(key, 11)
        num_sets = training_bank().inputs.shape[0]
        uniform = jax.random.uniform
        noise = jnp.where(uniform(k[5]) < 0.3, uniform(k[6], maxval=0.3), 0.0)
        dataset = jax.random.randint(k[0], (), 0, num_sets)
        if self.clean:
            noise, dataset = jnp.zeros(()), mixture_set(dataset)
        log_batch = uniform(k[7], minval=4.0, maxval=jnp.log2(self.max_batch + 0.5))
        log_train = uniform(
            k[8], minval=jnp.log2(self.min_examples), maxval=jnp.log2(self.max_examples + 0.5)
        )
        return DrawnMlp(
            dataset=dataset,
            activation=jax.random.randint(k[1], (), 0, _NUM_ACTIVATIONS),
            normalized=uniform(k[2]) < 0.35,
            residual=uniform(k[3]) < 0.35,
            squared_loss=uniform(k[4]) < 0.15,
            label_noise=noise,
            batch_size=jnp.maximum(jnp.floor(2.0**log_batch), 4.0),
            train_examples=jnp.floor(2.0**log_train),
            init_scale=jnp.exp(0.35 * jax.random.normal(k[9])),
            input_scale=jnp.exp(0.3 * jax.random.normal(jax.random.fold_in(k[9], 1))),
            log_scale=draw_log_scale(k[10], len(self.specs), self.reparametrized, self.spread),
        )

    def init(self, key: jax.Array, drawn: DrawnMlp) -> Params:
        """Draws He-scaled matrices and zero biases, divided by the reparametrization."""
        params = {}
        for i, spec in enumerate(self.specs):
            if len(spec.shape) == 1:
                params[spec.name] = jnp.zeros(spec.shape)
                continue
            scale = drawn.init_scale * jnp.sqrt(2.0 / spec.fan_in) * jnp.exp(-drawn.log_scale[i])
            value = jax.random.normal(jax.random.fold_in(key, i), spec.shape)
            params[spec.name] = scale * value
        return params

    def batch(self, key: jax.Array, drawn: DrawnMlp, data: Bank, split: Split) -> ClassifierBatch:
        """Draws examples with replacement; labels are noisy in both splits alike."""
        pick, flip, label = jax.random.split(key, 3)
        first, last = jnp.zeros(()), drawn.train_examples
        if split == "validation":
            first, last = jnp.asarray(float(TRAIN_EXAMPLES)), jnp.asarray(float(NUM_EXAMPLES))
        where = first + (last - first) * jax.random.uniform(pick, (self.max_batch,))
        index = jnp.clip(where.astype(jnp.int32), 0, NUM_EXAMPLES - 1)
        inputs = jnp.asarray(data.inputs)[drawn.dataset, index] * drawn.input_scale
        labels = jnp.asarray(data.labels)[drawn.dataset, index]
        noisy = jax.random.uniform(flip, (self.max_batch,)) < drawn.label_noise
        other = jax.random.randint(label, (self.max_batch,), 0, NUM_CLASSES)
        used = jnp.arange(self.max_batch) < drawn.batch_size
        if split == "validation":
            used = jnp.ones_like(used)
        weights = used / jnp.mean(used)
        return ClassifierBatch(inputs, jnp.where(noisy, other, labels), weights)

    def loss(self, params: Params, batch: ClassifierBatch, drawn: DrawnMlp) -> jax.Array:
        """Cross-entropy, or the mean squared error against one-hot labels."""
        scales = jnp.exp(drawn.log_scale)
        x = batch.inputs
        last = len(self.sizes) - 2
        for i in range(last + 1):
            y = x @ (params[f"w{i}"] * scales[2 * i]) + params[f"b{i}"] * scales[2 * i + 1]
            if i < last:
                y = activate(jnp.where(drawn.normalized, normalize(y), y), drawn.activation)
                if x.shape == y.shape:
                    y = jnp.where(drawn.residual, x + y, y)
            x = y
        onehot = jax.nn.one_hot(batch.labels, NUM_CLASSES)
        entropy = -jnp.sum(onehot * jax.nn.log_softmax(x), axis=-1)
        squared = jnp.sum((x - onehot) ** 2, axis=-1)
        return jnp.mean(batch.weights * jnp.where(drawn.squared_loss, squared, entropy))
