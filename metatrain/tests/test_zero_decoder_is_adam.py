"""A zero decoder is Adam: the flagship against optax, output normalization off."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnemosyne_metatrain.layout import Layout, ParameterSpec
from mnemosyne_metatrain.optimizers.base import StepInputs, apply_updates
from mnemosyne_metatrain.optimizers.mnemosyne import Knobs, Mnemosyne, MnemosyneConfig

SPECS = (
    ParameterSpec("w", (70, 33), 70, 33),
    ParameterSpec("b", (5,)),
    ParameterSpec("t", (24, 32), 24, 32, transposed=True),
)

# Knobs that leave nothing of the optimizer but Adam.
ADAM = Knobs(
    eta_vector=0.01,
    eta_matrix=0.01,
    width_exponent=0.0,
    warmup=0.0,
    sharp_weight=0.0,
    fast_weight=1.0,
    slow_weight=0.0,
    fast_power=0.0,
    decay=0.0,
    epsilon=0.0,
)


def run(chunk_size: int, steps: int = 12) -> tuple[dict, dict]:
    optimizer = Mnemosyne(MnemosyneConfig(chunk_size=chunk_size, knobs=ADAM))
    layout = Layout(SPECS, chunk_size=chunk_size)
    theta = optimizer.init_theta(jax.random.key(0))
    prepared = optimizer.prepare(theta, layout)
    params = {s.name: jnp.zeros(s.shape) for s in SPECS}
    mine, other = params, params
    state = optimizer.init(layout)
    adam = optax.adam(0.01, eps=0.0)
    adam_state = adam.init(other)

    @jax.jit
    def step(state, grads):
        return optimizer.update(theta, prepared, layout, state, grads, StepInputs.untold())

    for t in range(steps):
        keys = jax.random.split(jax.random.key(t + 1), len(SPECS))
        grads = {s.name: jax.random.normal(k, s.shape) for s, k in zip(SPECS, keys, strict=True)}
        update, state = step(state, grads)
        mine = apply_updates(mine, update)
        update, adam_state = adam.update(grads, adam_state)
        other = optax.apply_updates(other, update)
    return mine, other


@pytest.mark.parametrize("chunk_size", [64, 1024])
def test_zero_decoder_takes_adams_steps(chunk_size: int) -> None:
    mine, other = run(chunk_size)
    for name in mine:
        np.testing.assert_allclose(mine[name], other[name], rtol=2e-5, atol=2e-6)
