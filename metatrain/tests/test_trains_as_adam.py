"""Nets trained by a zero decoder and by Adam stay together, whatever the cells and chunks."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_mnemosyne_variants import SMALL
from test_zero_decoder_is_adam import ADAM

from mnemosyne_metatrain.layout import Layout, ParameterSpec
from mnemosyne_metatrain.optimizers.base import StepInputs, apply_updates
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne

NET = (
    ParameterSpec("w0", (20, 12), 20, 12),
    ParameterSpec("b0", (12,)),
    ParameterSpec("w1", (12, 10), 12, 10, transposed=True),
)


@pytest.mark.parametrize(
    ("cell_size", "chunk_size", "same_step"),
    [(1, 64, False), (16, 512, True)],
)
def test_a_zero_decoder_trains_a_net_as_adam_does(
    cell_size: int, chunk_size: int, same_step: bool
) -> None:
    config = replace(SMALL, cell_size=cell_size, same_step_context=same_step, knobs=ADAM)
    optimizer, layout = Mnemosyne(config), Layout(NET, cell_size, chunk_size)
    theta = jax.jit(optimizer.init_theta)(jax.random.key(0))
    rng = np.random.default_rng(0)
    params = {s.name: jnp.asarray(rng.normal(0, 0.3, s.shape), jnp.float32) for s in NET}
    inputs = rng.normal(size=(16, 20)).astype(np.float32)
    targets = np.sin(inputs[:, :10])
    adam = optax.adam(0.01, eps=0.0)

    def loss(params: dict) -> jax.Array:
        hidden = jnp.tanh(inputs @ params["w0"] + params["b0"])
        return jnp.mean((hidden @ params["w1"] - targets) ** 2)

    @jax.jit
    def train(params: dict) -> tuple[dict, dict, jax.Array]:
        prepared = optimizer.prepare(theta, layout)

        def step(carry: tuple, _: None) -> tuple[tuple, jax.Array]:
            mine, state, other, adam_state = carry
            value, grads = jax.value_and_grad(loss)(mine)
            told = StepInputs.untold()
            updates, state = optimizer.update(theta, prepared, layout, state, grads, told)
            mine = apply_updates(mine, updates)
            moves, adam_state = adam.update(jax.grad(loss)(other), adam_state)
            return (mine, state, optax.apply_updates(other, moves), adam_state), value

        start = (params, optimizer.init(layout), params, adam.init(params))
        end, losses = jax.lax.scan(step, start, None, 30)
        return end[0], end[2], losses

    mine, other, losses = train(params)

    assert float(losses[-1]) < 0.5 * float(losses[0])
    for name in mine:
        np.testing.assert_allclose(mine[name], other[name], rtol=1e-3, atol=1e-4)
