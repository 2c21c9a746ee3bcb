"""Regressions without noise: perceptrons that copy their inputs, or the outputs of a random net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.layout import ParameterSpec, Params
from mnemosyne_metatrain.tasks.bank import (
    NUM_EXAMPLES,
    NUM_INPUTS,
    TRAIN_EXAMPLES,
    Bank,
    training_bank,
)
from mnemosyne_metatrain.tasks.base import Split
from mnemosyne_metatrain.tasks.mlp import activate, draw_log_scale, normalize

_TEACHER_WIDTH = 32


class DrawnRegression(NamedTuple):
    """What differs between tasks; scalars but for the last three.

    `copies` is 1 where the target is the input; else it is a random net with the two matrices
    `inner` [64, 32] and `outer` [32, 64].
    """

    dataset: jax.Array
    activation: jax.Array
    normalized: jax.Array
    copies: jax.Array
    batch_size: jax.Array
    train_examples: jax.Array
    init_scale: jax.Array
    input_scale: jax.Array
    log_scale: jax.Array
    inner: jax.Array
    outer: jax.Array


class RegressionBatch(NamedTuple):
    """Inputs and targets [n, 64], weights [n] of mean 1."""

    inputs: jax.Array
    targets: jax.Array
    weights: jax.Array


@dataclass(frozen=True)
class RegressionFamily:
    """Perceptrons with given hidden widths and as many outputs as inputs.

    Attributes:
        widths: Hidden widths.
        max_batch: Examples in a batch, of which a task may use fewer.
        min_examples: Least training examples of a task.
    """

    widths: tuple[int, ...]
    max_batch: int = 64
    min_examples: int = 4096

    @property
    def name(self) -> str:
        """Name in configurations and reports."""
        return "regression_" + "_".join(str(w) for w in self.widths)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of all layers, input and output included."""
        return (NUM_INPUTS, *self.widths, NUM_INPUTS)

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """A matrix and a bias a layer; every other matrix is stored transposed."""
        result = []
        for i, (n, m) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            result.append(ParameterSpec(f"w{i}", (n, m), n, m, transposed=i % 2 == 1))
            result.append(ParameterSpec(f"b{i}", (m,)))
        return tuple(result)

    def data(self) -> Bank:
        """The bank whose inputs are used."""
        return training_bank()

    def draw(self, key: jax.Array) -> DrawnRegression:
        """Draws a task."""
        k = jax.random.split(key, 11)
        uniform = jax.random.uniform
        log_batch = uniform(k[4], minval=4.0, maxval=jnp.log2(self.max_batch + 0.5))
        log_train = uniform(
            k[5], minval=jnp.log2(self.min_examples), maxval=jnp.log2(TRAIN_EXAMPLES + 0.5)
        )
        inner = jax.random.normal(k[9], (NUM_INPUTS, _TEACHER_WIDTH)) / NUM_INPUTS**0.5
        outer = jax.random.normal(k[10], (_TEACHER_WIDTH, NUM_INPUTS)) / _TEACHER_WIDTH**0.5
        return DrawnRegression(
            dataset=jax.random.randint(k[0], (), 0, training_bank().inputs.shape[0]),
            activation=jax.random.randint(k[1], (), 0, 5),
            normalized=uniform(k[2]) < 0.25,
            copies=uniform(k[3]) < 0.5,
            batch_size=jnp.floor(2.0**log_batch),
            train_examples=jnp.floor(2.0**log_train),
            init_scale=jnp.exp(0.35 * jax.random.normal(k[6])),
            input_scale=jnp.exp(0.3 * jax.random.normal(k[7])),
            log_scale=draw_log_scale(k[8], len(self.specs), 0.2, 1.0),
            inner=inner,
            outer=1.5 * outer,
        )

    def init(self, key: jax.Array, drawn: DrawnRegression) -> Params:
        """Draws matrices of rms 1/sqrt(fan-in) and zero biases, over the reparametrization."""
        params = {}
        for i, spec in enumerate(self.specs):
            if len(spec.shape) == 1:
                params[spec.name] = jnp.zeros(spec.shape)
                continue
            scale = drawn.init_scale * spec.fan_in**-0.5 * jnp.exp(-drawn.log_scale[i])
            draw = jax.random.normal(jax.random.fold_in(key, i), spec.shape)
            params[spec.name] = scale * draw
        return params

    def batch(
        self, key: jax.Array, drawn: DrawnRegression, data: Bank, split: Split
    ) -> RegressionBatch:
        """Draws examples with replacement."""
        first, last = jnp.zeros(()), drawn.train_examples
        if split == "validation":
            first, last = jnp.asarray(float(TRAIN_EXAMPLES)), jnp.asarray(float(NUM_EXAMPLES))
        where = first + (last - first) * jax.random.uniform(key, (self.max_batch,))
        index = jnp.clip(where.astype(jnp.int32), 0, NUM_EXAMPLES - 1)
        inputs = jnp.asarray(data.inputs)[drawn.dataset, index] * drawn.input_scale
        taught = jnp.tanh(2.0 * inputs @ drawn.inner) @ drawn.outer
        used = jnp.arange(self.max_batch) < drawn.batch_size
        if split == "validation":
            used = jnp.ones_like(used)
        targets = jnp.where(drawn.copies, inputs, taught)
        return RegressionBatch(inputs, targets, used / jnp.mean(used))

    def loss(self, params: Params, batch: RegressionBatch, drawn: DrawnRegression) -> jax.Array:
        """The mean squared error."""
        scales = jnp.exp(drawn.log_scale)
        x = batch.inputs
        last = len(self.sizes) - 2
        for i in range(last + 1):
            x = x @ (params[f"w{i}"] * scales[2 * i]) + params[f"b{i}"] * scales[2 * i + 1]
            if i < last:
                x = activate(jnp.where(drawn.normalized, normalize(x), x), drawn.activation)
        return jnp.mean(batch.weights[:, None] * (x - batch.targets) ** 2)
