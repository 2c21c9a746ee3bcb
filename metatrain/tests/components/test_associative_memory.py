"""Write rules of the memory against plain loops over time in double precision."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnemosyne_metatrain.components import associative_memory as memories
from mnemosyne_metatrain.components.associative_memory import (
    AdditiveMemory,
    DeltaNetState,
    DeltaRnnState,
    FastWeightInputs,
    NormalizedMemory,
)

STEPS, FEATURES, VALUES = 12, 5, 3


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def positive(seed: int, *shape: int) -> np.ndarray:
    return np.exp(normal(seed, *shape))


def scan(step, state, *inputs):
    """Runs `step` over time and returns the last state and the outputs."""
    return jax.jit(lambda state, inputs: jax.lax.scan(step, state, inputs))(state, inputs)


def write_strengths(seed: int) -> np.ndarray:
    return 1 / (1 + np.exp(-normal(seed, STEPS)))


@pytest.mark.parametrize("discount", [1.0, 0.9, "per feature"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-5)])
def test_additive_memory_is_attention_that_fades_with_age(discount, dtype, tolerance):
    decay = np.linspace(0.5, 1.0, FEATURES) if discount == "per feature" else np.array(discount)
    q, k = positive(0, STEPS, FEATURES).astype(dtype), positive(1, STEPS, FEATURES).astype(dtype)
    v = normal(2, STEPS, VALUES).astype(dtype)
    empty = AdditiveMemory(np.zeros((FEATURES, VALUES), dtype), np.zeros(FEATURES, dtype))

    def step(memory, inputs):
        q, k, v = inputs
        memory = memories.write_additive(memory, k, v, decay.astype(dtype))
        return memory, memories.read_additive(memory, q)

    _, outputs = scan(step, empty, q, k, v)

    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    for t in range(STEPS):
        weights = [float(sum(q[t] * decay ** (t - i) * k[i])) for i in range(t + 1)]
        expected = sum(w * v[i] for i, w in enumerate(weights)) / sum(weights)
        np.testing.assert_allclose(outputs[t], expected, tolerance, tolerance)
    assert outputs.dtype == dtype


def test_an_empty_memory_reads_as_zero():
    empty = AdditiveMemory(jnp.zeros((FEATURES, VALUES)), jnp.zeros(FEATURES))

    np.testing.assert_array_equal(
        memories.read_additive(empty, jnp.ones(FEATURES)), np.zeros(VALUES)
    )


def test_normalized_memory_is_the_ratio_of_the_additive_one():
    keys, v = positive(3, STEPS, 2), normal(4, STEPS, 2, VALUES)
    keys[0, 1] = 0.0
    start = NormalizedMemory(np.zeros((2, VALUES)), np.zeros(2))

    def step(memory, inputs):
        memory = memories.write_normalized(memory, *inputs, discount=0.8)
        return memory, memory.ratio

    _, ratios = scan(step, start, keys, v)

    content, normalizer = np.zeros((2, VALUES)), np.zeros(2)
    for t in range(STEPS):
        content = 0.8 * content + keys[t][:, None] * v[t]
        normalizer = 0.8 * normalizer + keys[t]
        expected = content / np.where(normalizer > 0, normalizer, 1.0)[:, None]
        np.testing.assert_allclose(ratios[t], expected, rtol=1e-12)


def test_normalized_memories_with_constant_keys_are_adams_moments():
    gradients = normal(5, STEPS, VALUES)
    start = NormalizedMemory(np.zeros(VALUES), np.zeros(()))

    def step(state, gradient):
        first, second = state
        first = memories.write_normalized(first, jnp.asarray(1.0), gradient, 0.9)
        second = memories.write_normalized(second, jnp.asarray(1.0), gradient**2, 0.999)
        return (first, second), first.ratio / (jnp.sqrt(second.ratio) + 1e-8)

    _, directions = jax.jit(lambda g: jax.lax.scan(step, (start, start), g))(gradients)

    optimizer = optax.scale_by_adam(eps=1e-8)
    _, expected = jax.jit(
        lambda g: jax.lax.scan(
            lambda state, g: optimizer.update(g, state)[::-1], optimizer.init(g[0]), g
        )
    )(gradients)
    np.testing.assert_allclose(directions, expected, rtol=1e-12)


def reference_delta(content, key, value, beta):
    """N + beta phi (v - phi^T N)^T with phi of sum 1, entry by entry."""
    phi = [x / sum(key) for x in key]
    result = content.copy()
    for d in range(len(value)):
        old = sum(phi[m] * content[m, d] for m in range(len(phi)))
        for m in range(len(phi)):
            result[m, d] += beta * phi[m] * (value[d] - old)
    return result


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-5)])
def test_delta_rule_equals_the_loops(dtype, tolerance):
    q, k = positive(6, STEPS, FEATURES).astype(dtype), positive(7, STEPS, FEATURES).astype(dtype)
    v, beta = normal(8, STEPS, VALUES).astype(dtype), write_strengths(9).astype(dtype)

    _, outputs = scan(
        lambda n, inputs: memories.step_delta(n, FastWeightInputs(*inputs)),
        np.zeros((FEATURES, VALUES), dtype),
        *(q, k, v, beta),
    )

    content = np.zeros((FEATURES, VALUES))
    for t in range(STEPS):
        content = reference_delta(content, k[t].astype(np.float64), v[t], float(beta[t]))
        expected = q[t].astype(np.float64) @ content / q[t].astype(np.float64).sum()
        np.testing.assert_allclose(outputs[t], expected, tolerance, tolerance)
    assert outputs.dtype == dtype


def test_delta_rule_replaces_the_value_of_a_key_and_leaves_others():
    content = normal(10, FEATURES, VALUES)
    key, value = np.eye(FEATURES)[2], normal(11, VALUES)

    written = memories.write_delta(content, jnp.asarray(key), value, jnp.asarray(1.0))

    content[2] = value
    np.testing.assert_allclose(written, content, atol=1e-15)


def test_delta_rule_stays_bounded_for_normalized_keys_and_diverges_for_raw_ones():
    keys = 3 * positive(12, 400, FEATURES)
    values, beta = normal(13, 400, VALUES), np.ones(400)

    def run(normalize):
        def step(content, inputs):
            key, value, beta = inputs
            key = memories.normalize_features(key) if normalize else key
            return memories.write_delta(content, key, value, beta), None

        last, _ = scan(step, np.zeros((FEATURES, VALUES)), keys, values, beta)
        return np.abs(last).max()

    assert run(normalize=True) < 100
    assert not run(normalize=False) < 1e100


def test_heads_may_have_discounts_of_their_own():
    content, discounts = normal(27, 2, FEATURES, VALUES), np.array([[0.5], [0.9]])
    memory = AdditiveMemory(jnp.asarray(content), jnp.ones((2, FEATURES)))
    nothing = (jnp.zeros((2, FEATURES)), jnp.zeros((2, VALUES)))

    additive = memories.write_additive(memory, *nothing, discounts)
    delta = memories.write_delta(memory.content, *nothing, jnp.zeros(2), discounts)

    np.testing.assert_allclose(additive.content, content * discounts[..., None], rtol=1e-15)
    np.testing.assert_allclose(delta, content * discounts[..., None], rtol=1e-15)
    np.testing.assert_allclose(additive.normalizer, np.tile(discounts, FEATURES), rtol=1e-15)


def test_delta_rule_forgets_by_its_discount():
    content = normal(14, FEATURES, VALUES)
    nothing = jnp.asarray(0.0)

    written = memories.write_delta(content, jnp.ones(FEATURES), jnp.ones(VALUES), nothing, 0.7)

    np.testing.assert_allclose(written, 0.7 * content, rtol=1e-14)


def test_delta_rnn_equals_the_loops():
    q, k = positive(15, STEPS, FEATURES), positive(16, STEPS, FEATURES)
    v = normal(17, STEPS, VALUES)
    rk, rv = positive(18, STEPS, VALUES), normal(19, STEPS, VALUES)
    beta, rbeta = write_strengths(20), write_strengths(21)
    start = DeltaRnnState(
        np.zeros((FEATURES, VALUES)), np.zeros((VALUES, VALUES)), np.zeros(VALUES)
    )

    def step(state, inputs):
        return memories.step_delta_rnn(
            state, FastWeightInputs(*inputs[0]), FastWeightInputs(*inputs[1])
        )

    _, outputs = scan(step, start, (q, k, v, beta), (rk, rk, rv, rbeta))

    content, recurrent, output = start
    for t in range(STEPS):
        content = reference_delta(content, k[t], v[t], beta[t])
        recurrent = reference_delta(recurrent, rk[t], rv[t], rbeta[t])
        soft = [math.exp(y) for y in output]
        soft = np.array(soft) / sum(soft)
        output = q[t] @ content / q[t].sum() + soft @ recurrent
        np.testing.assert_allclose(outputs[t], output, rtol=1e-12)


def delta_net_weights(recurrent_scale: float) -> dict[str, np.ndarray]:
    sizes = {"query": 4, "key": 4, "value": VALUES, "beta": 1}
    weights = {}
    for i, (name, size) in enumerate(sizes.items()):
        weights[name] = normal(30 + i, 6, size)
        weights[f"recurrent_{name}"] = recurrent_scale * normal(40 + i, VALUES, size)
    return weights


def run_recurrent_delta_net(weights, x):
    def step(state, x):
        slow = memories.recurrent_projection(weights, jnp.exp)
        return memories.step_recurrent_delta_net(state, slow, x)

    start = DeltaNetState(np.zeros((4, VALUES)), np.zeros(VALUES))
    return jax.jit(lambda x: jax.lax.scan(step, start, x)[1])(x)


@pytest.mark.parametrize("recurrent_scale", [0.0, 1.0])
def test_recurrent_delta_net_equals_the_loops(recurrent_scale):
    weights, x = delta_net_weights(recurrent_scale), normal(22, STEPS, 6)

    outputs = run_recurrent_delta_net(weights, x)

    content, output = np.zeros((4, VALUES)), np.zeros(VALUES)
    for t in range(STEPS):
        made = {
            name: x[t] @ weights[name] + np.tanh(output) @ weights[f"recurrent_{name}"]
            for name in ("query", "key", "value", "beta")
        }
        beta = 1 / (1 + math.exp(-made["beta"][0]))
        content = reference_delta(content, np.exp(made["key"]), made["value"], beta)
        phi = np.exp(made["query"])
        output = phi @ content / phi.sum()
        np.testing.assert_allclose(outputs[t], output, rtol=1e-11)


def test_leading_axes_are_independent_memories():
    q, k = positive(23, 2, 4, FEATURES), positive(24, 2, 4, FEATURES)
    inputs = FastWeightInputs(q, k, normal(25, 2, 4, VALUES), np.full((2, 4), 0.3))
    content = normal(26, 2, 4, FEATURES, VALUES)

    written, output = jax.jit(memories.step_delta)(content, inputs)

    one = jax.tree.map(lambda x: x[1, 2], inputs)
    expected = reference_delta(content[1, 2], one.key, one.value, 0.3)
    np.testing.assert_allclose(written[1, 2], expected, rtol=1e-12)
    np.testing.assert_allclose(output[1, 2], one.query @ expected / one.query.sum(), rtol=1e-12)
