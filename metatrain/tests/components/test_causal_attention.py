"""Causal attention in chunks: values and derivatives against one step at a time."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemosyne_metatrain.components import causal_attention
from mnemosyne_metatrain.components.associative_memory import AdditiveMemory

LENGTH, FEATURES, VALUES = 13, 4, 3


def draw(dtype: str = "float64"):
    """Features, values and a memory to start from, for 2 sequences."""
    rng = np.random.default_rng(0)
    phi_q, phi_k = np.exp(rng.normal(size=(2, 2, LENGTH, FEATURES)))
    values = rng.normal(size=(2, LENGTH, VALUES))
    content = rng.normal(size=(2, FEATURES, VALUES))
    arrays = (phi_q, phi_k, values, content, np.exp(rng.normal(size=(2, FEATURES))))
    phi_q, phi_k, values, content, normalizer = (x.astype(dtype) for x in arrays)
    return phi_q, phi_k, values, AdditiveMemory(content, normalizer)


def reference_attention(phi_q, phi_k, values, discount, initial):
    """out_i = sum_(j <= i) lambda^(i-j) K_ij v_j / sum, plus what the memory held, by loops."""
    phi_q, phi_k, values = (np.asarray(x, np.float64) for x in (phi_q, phi_k, values))
    out = np.zeros(values.shape)
    for i in range(len(values)):
        past = discount ** (i + 1) * phi_q[i]
        numerator, denominator = past @ initial.content, past @ initial.normalizer
        for j in range(i + 1):
            weight = discount ** (i - j) * float(phi_q[i] @ phi_k[j])
            numerator, denominator = numerator + weight * values[j], denominator + weight
        out[i] = numerator / denominator
    return out


@pytest.mark.parametrize("chunk_size", [1, 4, 50])
@pytest.mark.parametrize("discount", [None, 0.8])
def test_chunks_of_any_size_equal_the_loops(chunk_size, discount):
    phi_q, phi_k, values, initial = draw()

    attend = functools.partial(causal_attention.chunked_attention, chunk_size=chunk_size)
    out, last = jax.jit(functools.partial(attend, discount=discount))(
        phi_q, phi_k, values, initial=initial
    )

    decay = 1.0 if discount is None else discount
    for b in range(2):
        start = AdditiveMemory(initial.content[b], initial.normalizer[b])
        expected = reference_attention(phi_q[b], phi_k[b], values[b], decay, start)
        np.testing.assert_allclose(out[b], expected, rtol=1e-11)
    expected_last = decay**LENGTH * initial.normalizer
    for j in range(LENGTH):
        expected_last = expected_last + decay ** (LENGTH - 1 - j) * phi_k[:, j]
    np.testing.assert_allclose(last.normalizer, expected_last, rtol=1e-12)


def test_one_step_at_a_time_equals_the_loops():
    phi_q, phi_k, values, initial = draw()

    out, _ = jax.jit(causal_attention.recurrent_attention)(phi_q, phi_k, values, 0.8, initial)

    for b in range(2):
        start = AdditiveMemory(initial.content[b], initial.normalizer[b])
        expected = reference_attention(phi_q[b], phi_k[b], values[b], 0.8, start)
        np.testing.assert_allclose(out[b], expected, rtol=1e-11)


def loss_of(attend):
    """A loss that uses the outputs and the last memory, as a function of all inputs."""

    def loss(phi_q, phi_k, values, initial, discount):
        out, last = attend(phi_q, phi_k, values, discount=discount, initial=initial)
        return jnp.sum(jnp.sin(out)) + jnp.sum(last.content**2) + jnp.sum(jnp.log(last.normalizer))

    return loss


@pytest.mark.parametrize("chunk_size", [1, 4])
@pytest.mark.parametrize("keep_states", [False, True])
def test_recomputing_backward_equals_differentiating_step_by_step(chunk_size, keep_states):
    arguments = draw()

    def chunked(*args, discount, initial):
        return causal_attention.chunked_attention(
            *args,
            chunk_size=chunk_size,
            discount=discount if keep_states else None,
            initial=initial,
            keep_states=keep_states,
        )

    discount = 0.8 if keep_states else 1.0
    wrt = (0, 1, 2, 3, 4) if keep_states else (0, 1, 2, 3)
    actual = jax.jit(jax.grad(loss_of(chunked), wrt))(*arguments, discount)
    expected = jax.jit(jax.grad(loss_of(causal_attention.recurrent_attention), wrt))(
        *arguments, discount
    )

    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)


def test_float32_with_regained_states_is_close_to_double_precision():
    def gradient(dtype):
        phi_q, phi_k, values, initial = draw(dtype)

        def loss(phi_q, phi_k, values):
            out, _ = causal_attention.chunked_attention(
                *(phi_q, phi_k, values), chunk_size=4, initial=initial, keep_states=False
            )
            return jnp.sum(jnp.sin(out))

        return jax.jit(jax.grad(loss, (0, 1, 2)))(phi_q, phi_k, values)

    for x, y in zip(gradient("float32"), gradient("float64"), strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_backward_keeps_no_more_than_inputs_and_states_at_chunk_starts():
    phi_q, phi_k, values, initial = draw("float32")

    def saved_elements(chunk_size, keep_states):
        def attend(phi_q, phi_k, values):
            return causal_attention.chunked_attention(
                *(phi_q, phi_k, values),
                chunk_size=chunk_size,
                initial=initial,
                keep_states=keep_states,
            )

        _, pullback = jax.eval_shape(lambda *x: jax.vjp(attend, *x), phi_q, phi_k, values)
        return sum(x.size for x in jax.tree.leaves(pullback))

    inputs = phi_q.size + phi_k.size + values.size
    state = initial.content.size + initial.normalizer.size
    assert saved_elements(1, keep_states=False) <= inputs + state + 1
    assert saved_elements(1, keep_states=True) <= inputs + LENGTH * state + 1
    # Three chunks of 4 and one of 1, each part with its own copy of the discount.
    assert saved_elements(4, keep_states=True) <= inputs + 4 * state + 2


def test_vmap_over_heads_with_their_own_discounts():
    phi_q, phi_k, values, _ = draw()
    discounts = np.array([0.5, 0.9])

    attend = functools.partial(causal_attention.chunked_attention, chunk_size=5)
    out, _ = jax.jit(jax.vmap(lambda q, k, v, d: attend(q, k, v, discount=d)))(
        phi_q, phi_k, values, discounts
    )

    empty = AdditiveMemory(np.zeros((FEATURES, VALUES)), np.zeros(FEATURES))
    for h in range(2):
        expected = reference_attention(phi_q[h], phi_k[h], values[h], discounts[h], empty)
        np.testing.assert_allclose(out[h], expected, rtol=1e-11)


def test_refuses_to_regain_states_under_a_discount():
    phi_q, phi_k, values, _ = draw()

    with pytest.raises(ValueError, match="keep the states"):
        causal_attention.chunked_attention(
            phi_q, phi_k, values, chunk_size=4, discount=0.9, keep_states=False
        )
