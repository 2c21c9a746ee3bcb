"""Compact associative memory: the rules by which a fixed-size memory is written and read in time.

A memory maps a key's features phi(k) [M] to a value [D]. Every rule is one step in time, so a
recurrence costs nothing extra in an optimizer, whose time axis is one step a call. Arrays may have
any leading axes (meta-tokens, heads); they are written [..., M].

* additive with discount: linear attention whose past fades, with a normalizer Psi;
* delta rule: the value stored under a key is corrected toward the new one; no normalizer;
* Delta RNN: a second, recurrent fast matrix sees the last output;
* recurrent Delta Net: the slow weights that make q, k, v and beta see the last output.

Keys and queries of the delta rules are normalized to sum 1 here (`normalize_features`): with raw
keys I - beta phi phi^T can have eigenvalues below -1, and the memory diverges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.components.linear_attention import divide_or_zero

Discount: TypeAlias = jax.Array | float


class AdditiveMemory(NamedTuple):
    """N (`content`, [..., M, D]) and Psi (`normalizer`, [..., M])."""

    content: jax.Array
    normalizer: jax.Array


class NormalizedMemory(NamedTuple):
    """A memory with one feature: r = N / Psi (`ratio`, [..., D]) and Psi (`normalizer`, [...])."""

    ratio: jax.Array
    normalizer: jax.Array


class DeltaRnnState(NamedTuple):
    """Two fast matrices and the last output.

    `content` [..., M, D] maps features of inputs to values, `recurrent` [..., D, D] maps the
    softmax of the last `output` [..., D] to values.
    """

    content: jax.Array
    recurrent: jax.Array
    output: jax.Array


class DeltaNetState(NamedTuple):
    """The fast matrix `content` [..., M, D] and the last `output` [..., D]."""

    content: jax.Array
    output: jax.Array


class FastWeightInputs(NamedTuple):
    """What the slow weights make of one input: what to look up, and what to write where.

    `query` and `key` are features [..., M], `value` is [..., D], and `beta` [...] in [0, 1] is how
    much of the old value is replaced.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    beta: jax.Array


def write_additive(
    memory: AdditiveMemory, phi_k: jax.Array, value: jax.Array, discount: Discount = 1.0
) -> AdditiveMemory:
    """N <- lambda N + phi(k) v^T and Psi <- lambda Psi + phi(k).

    Unrolled, it is attention over time whose weights fade by lambda a step.

    Args:
        memory: The memory before.
        phi_k: Features of the key, [..., M].
        value: v, [..., D].
        discount: lambda in (0, 1]; a scalar, or an array that broadcasts to [..., M], for heads
            or features with discounts of their own.

    Source: arXiv 2302.01128, the section on compact associative memory (exponential discount).
    """
    content = _fade(memory.content, discount) + phi_k[..., :, None] * value[..., None, :]
    return AdditiveMemory(content, discount * memory.normalizer + phi_k)


def _fade(content: jax.Array, discount: Discount) -> jax.Array:
    """Multiplies [..., M, D] by a discount that is a scalar or broadcasts to [..., M]."""
    decay = jnp.asarray(discount, content.dtype)
    return content * (decay[..., None] if decay.ndim else decay)


def read_additive(memory: AdditiveMemory, phi_q: jax.Array) -> jax.Array:
    """Reads phi(q)^T N / phi(q)^T Psi, [..., D]; 0 from an empty memory.

    Source: arXiv 2302.01128, as above; arXiv 2006.16236, section 3.4 (transformers are RNNs).
    """
    numerator = jnp.einsum("...m,...md->...d", phi_q, memory.content)
    return divide_or_zero(numerator, jnp.einsum("...m,...m->...", phi_q, memory.normalizer))


def write_normalized(
    memory: NormalizedMemory, key: jax.Array, value: jax.Array, discount: Discount
) -> NormalizedMemory:
    """Writes to an additive memory with one feature that stores its read-out r = N / Psi.

        Psi <- lambda Psi + a,   rho = a / Psi,   r <- r + rho (v - r)

    With a constant key, r is the exponential average of v with Adam's bias correction: the first
    step has rho = 1 and the constant cancels. A zero key leaves r as it is, also at the start.

    Args:
        memory: The memory before.
        key: a >= 0, [...], shared by all D values.
        value: v, [..., D].
        discount: lambda, a scalar or [...].
    """
    normalizer = discount * memory.normalizer + key
    step = jnp.where(normalizer > 0, key / jnp.where(normalizer > 0, normalizer, 1.0), 0.0)
    ratio = memory.ratio + step[..., None] * (value - memory.ratio)
    return NormalizedMemory(ratio, normalizer)


def normalize_features(phi: jax.Array) -> jax.Array:
    """Scales nonnegative features to sum 1 over the last axis; features that are all 0 stay 0.

    Source: arXiv 2102.11174, section 4.2, the part on normalization.
    """
    return divide_or_zero(phi, jnp.sum(phi, axis=-1))


def write_delta(
    content: jax.Array, key: jax.Array, value: jax.Array, beta: jax.Array, discount: Discount = 1.0
) -> jax.Array:
    """Delta rule: N <- lambda N + beta phi(k) (v - v_old)^T, where v_old = phi(k)^T lambda N.

    With lambda = 1 it is the published rule; the discount is not. A key that is a unit feature
    vector with beta = 1 is replaced exactly.

    Args:
        content: N, [..., M, D].
        key: phi(k) normalized to sum 1, [..., M].
        value: v, [..., D].
        beta: Learned write strength in [0, 1], [...].
        discount: lambda, as for `write_additive`.

    Source: arXiv 2102.11174, section 4.2 (the improved programming instruction).
    """
    content = _fade(content, discount)
    old = read_delta(content, key)
    return content + key[..., :, None] * (beta[..., None] * (value - old))[..., None, :]


def read_delta(content: jax.Array, query: jax.Array) -> jax.Array:
    """Reads phi(q)^T N, [..., D], with a query normalized to sum 1, [..., M]."""
    return jnp.einsum("...m,...md->...d", query, content)


def step_delta(
    content: jax.Array, inputs: FastWeightInputs, discount: Discount = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Normalizes, writes by the delta rule, then reads; returns the content and the output."""
    key = normalize_features(inputs.key)
    content = write_delta(content, key, inputs.value, inputs.beta, discount)
    return content, read_delta(content, normalize_features(inputs.query))


def step_delta_rnn(
    state: DeltaRnnState, inputs: FastWeightInputs, recurrent: FastWeightInputs
) -> tuple[DeltaRnnState, jax.Array]:
    """Delta RNN: y_t = phi(q_t)^T W_t + f(y_(t-1))^T R_t, with f = softmax.

    Both fast matrices are written by the delta rule before they are read. The softmax makes the
    recurrent query a set of features with sum 1.

    Args:
        state: Fast matrices and the last output.
        inputs: Features and values for W.
        recurrent: For R: `key` [..., D] features and `value` [..., D]; its query is not used.

    Source: arXiv 2106.06295, the section on the Delta RNN (recurrent fast network).
    """
    content, feedforward = step_delta(state.content, inputs)
    key = normalize_features(recurrent.key)
    fast = write_delta(state.recurrent, key, recurrent.value, recurrent.beta)
    output = feedforward + read_delta(fast, jax.nn.softmax(state.output, axis=-1))
    return DeltaRnnState(content, fast, output), output


def step_recurrent_delta_net(
    state: DeltaNetState,
    slow_weights: Callable[[jax.Array, jax.Array], FastWeightInputs],
    x: jax.Array,
    discount: Discount = 1.0,
) -> tuple[DeltaNetState, jax.Array]:
    """Recurrent Delta Net: q, k, v and beta are made from the input and from the last output.

        (q_t, k_t, v_t, beta_t) = W x_t + R tanh(y_(t-1)),   then a delta step

    Args:
        state: The fast matrix and the last output.
        slow_weights: Maps (x [..., F], tanh(y) [..., D]) to features, value and beta; see
            `recurrent_projection` for the linear one.
        x: The input, [..., F].
        discount: As for `write_additive`; 1 is the published rule.

    Source: arXiv 2106.06295, the section on the recurrent Delta Net (recurrent slow network).
    """
    inputs = slow_weights(x, jnp.tanh(state.output))
    content, output = step_delta(state.content, inputs, discount)
    return DeltaNetState(content, output), output


def recurrent_projection(
    weights: dict[str, jax.Array], feature_map: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array, jax.Array], FastWeightInputs]:
    """The slow weights W x + R h of a recurrent Delta Net, followed by phi and a sigmoid.

    Args:
        weights: `query`, `key` [F, K], `value` [F, D], `beta` [F, 1], and the same names with the
            prefix `recurrent_`, [D, ...]. Zero recurrent weights give the plain Delta Net.
        feature_map: phi, from [..., K] to nonnegative features [..., M].
    """

    def project(x: jax.Array, h: jax.Array) -> FastWeightInputs:
        query, key, value, beta = (
            x @ weights[name] + h @ weights[f"recurrent_{name}"]
            for name in ("query", "key", "value", "beta")
        )
        beta = jax.nn.sigmoid(beta[..., 0])
        return FastWeightInputs(feature_map(query), feature_map(key), value, beta)

    return project
