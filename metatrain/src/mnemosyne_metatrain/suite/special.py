"""Tasks of other kinds: a differential equation, fine-tuning, and a prompt for a frozen net."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mnemosyne_metatrain.layout import Params
from mnemosyne_metatrain.suite.images import ImageBatch, Images, every_image, image_batches, mnist
from mnemosyne_metatrain.suite.language import Text, docstrings, gpt, manual, text_windows
from mnemosyne_metatrain.suite.nets import Declaration, affine, cross_entropy, transformer
from mnemosyne_metatrain.suite.task import SuiteTask
from mnemosyne_metatrain.tasks.base import Data, Split


def poisson(name: str, width: int) -> SuiteTask:
    """A net u(x) that solves u'' = f on [-1, 1] with u = 0 at the ends."""
    d = Declaration()
    d.matrix("l0", 1, width, 2.0)
    d.matrix("l1", width, width)
    d.matrix("l2", width, 1)

    def solution(params: Params, x: jax.Array) -> jax.Array:
        y = jnp.tanh(affine(params, "l0", x[None]))
        y = jnp.tanh(affine(params, "l1", y))
        return affine(params, "l2", y)[0]

    def force(x: jax.Array) -> jax.Array:
        return 4.0 * jnp.sin(3.0 * jnp.pi * x) + 2.0 * jnp.cos(jnp.pi * x)

    def draw(key: jax.Array, data: Data, split: Split) -> jax.Array:
        return jax.random.uniform(key, (64,), minval=-1.0, maxval=1.0)

    def loss(params: Params, points: jax.Array) -> jax.Array:
        curvature = jax.vmap(jax.grad(jax.grad(solution, 1), 1), in_axes=(None, 0))(params, points)
        ends = jnp.stack([solution(params, jnp.asarray(v)) for v in (-1.0, 1.0)])
        return jnp.mean((curvature - force(points)) ** 2) + 10.0 * jnp.mean(ends**2)

    return SuiteTask(name, d, lambda: None, draw, loss)


def pretrain(task: SuiteTask, steps: int, rate: float) -> Params:
    """Trains a task with Adam, for tasks that start from a trained net; the same in every run."""
    data = jax.tree.map(jnp.asarray, task.data())
    adam = optax.adam(rate)
    params = task.init(jax.random.key(11))

    @jax.jit
    def run(params: Params) -> Params:
        def step(
            carry: tuple[Params, optax.OptState], key: jax.Array
        ) -> tuple[tuple[Params, optax.OptState], None]:
            params, state = carry
            grads = jax.grad(task.loss)(params, task.batch(key, None, data, "train"))
            update, state = adam.update(grads, state)
            return (optax.apply_updates(params, update), state), None

        keys = jax.random.split(jax.random.key(12), steps)
        (trained, _), _ = jax.lax.scan(step, (params, adam.init(params)), keys)
        return trained

    trained: Params = run(params)
    return trained


def _some_digits(low: bool) -> Images:
    """The digits below 5, or the others; about half of the 2,048 that are held out."""
    x, y, held, held_y = mnist()
    train, held_out = (y < 5) == low, (held_y < 5) == low
    return Images(x[train], y[train], held[held_out], held_y[held_out])


def fine_tuning(name: str) -> SuiteTask:
    """A perceptron that knows the digits 0 to 4 learns 5 to 9; about 1,000 are held out."""
    d = Declaration()
    sizes = (144, 64, 64, 10)
    for i in range(3):
        d.matrix(f"l{i}", sizes[i], sizes[i + 1], 2.0**0.5)

    def loss(params: Params, batch: ImageBatch) -> jax.Array:
        x = batch.images
        for i in range(2):
            x = jax.nn.relu(affine(params, f"l{i}", x))
        return cross_entropy(affine(params, "l2", x), batch.labels)

    def make(low: bool, noise: float, initial: Callable[[jax.Array], Params] | None) -> SuiteTask:
        draw, fixed = image_batches(32, noise), every_image(32, noise)
        return SuiteTask(name, d, lambda: _some_digits(low), draw, loss, initial, fixed)

    @cache
    def start() -> Params:
        trained: Params = jax.tree.map(np.asarray, pretrain(make(True, 0.0, None), 300, 3e-3))
        return trained

    def initial(key: jax.Array) -> Params:
        return {name: jnp.asarray(value) for name, value in start().items()}

    start()
    return make(False, 0.1, initial)


def prompt_tuning(name: str) -> SuiteTask:
    """A prompt of 8 vectors makes a frozen transformer, trained on SciPy, read the manual."""
    width, depth, length, prompt = 48, 2, 32, 8
    frozen = gpt("frozen", width, depth, length, 32, docstrings)
    d = Declaration()
    d.embedding("prompt", prompt, width, 0.1)

    @cache
    def data() -> tuple[Text, Params]:
        return manual(), jax.tree.map(np.asarray, pretrain(frozen, 600, 3e-3))

    windows = text_windows(16, length - prompt + 1)

    def draw(key: jax.Array, both: tuple[Text, Params], split: Split) -> tuple[jax.Array, Params]:
        return windows(key, both[0], split), both[1]

    def loss(params: Params, batch: tuple[jax.Array, Params]) -> jax.Array:
        text, net = batch
        x = jnp.asarray(net["token"])[text[:, :-1]]
        front = jnp.broadcast_to(params["prompt"], (x.shape[0], prompt, width))
        x = jnp.concatenate([front, x], axis=1) + net["place"]
        x = transformer(net, "t", x, depth, 4, causal=True)[:, prompt:]
        return cross_entropy(affine(net, "out", x), text[:, 1:])

    return SuiteTask(name, d, data, draw, loss)
