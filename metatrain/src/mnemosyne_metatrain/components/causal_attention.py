"""Causal linear attention in chunks: a dial between memory and time (SLiM Performer).

    out_i = phi(q_i)^T N_i / phi(q_i)^T Psi_i,
    N_i = lambda N_(i-1) + phi(k_i) v_i^T,   Psi_i = lambda Psi_(i-1) + phi(k_i)

A sequence of L steps is cut into chunks of C. Within a chunk, a C x C matrix of weights is formed
at once; from chunk to chunk only (N, Psi) is carried. A small C takes little memory and many
sequential steps, a large C the opposite. The backward pass recomputes each chunk from the state
that it started with, last chunk first; those states are either kept (L / C of them) or regained by
subtracting each chunk's contribution from the state after it (one of them).

Source: arXiv 2012.11346, the sections on the compact forward pass and the time-memory tradeoff
(the published form has no discount).
"""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.components.associative_memory import (
    AdditiveMemory,
    read_additive,
    write_additive,
)
from mnemosyne_metatrain.components.linear_attention import divide_or_zero

_Inputs: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]
_Outputs: TypeAlias = tuple[jax.Array, AdditiveMemory]
_Residuals: TypeAlias = tuple[_Inputs, jax.Array, AdditiveMemory]


def empty_memory(phi_k: jax.Array, values: jax.Array) -> AdditiveMemory:
    """Returns the empty memory that fits phi_k [..., L, M] and values [..., L, D]."""
    batch, features = phi_k.shape[:-2], phi_k.shape[-1]
    content = jnp.zeros((*batch, features, values.shape[-1]), values.dtype)
    return AdditiveMemory(content, jnp.zeros((*batch, features), phi_k.dtype))


def recurrent_attention(
    phi_q: jax.Array,
    phi_k: jax.Array,
    values: jax.Array,
    discount: jax.Array | float = 1.0,
    initial: AdditiveMemory | None = None,
) -> _Outputs:
    """Causal attention one step at a time: the definition, and what a daemon does.

    Args:
        phi_q: Features of queries, [..., L, M].
        phi_k: Features of keys, [..., L, M].
        values: [..., L, D].
        discount: lambda in (0, 1], a scalar.
        initial: The memory before the first step; empty if None.

    Returns:
        Outputs [..., L, D], and the memory after the last step.
    """

    def step(memory: AdditiveMemory, inputs: _Inputs) -> tuple[AdditiveMemory, jax.Array]:
        q, k, v = inputs
        memory = write_additive(memory, k, v, discount)
        return memory, read_additive(memory, q)

    memory = empty_memory(phi_k, values) if initial is None else initial
    q_first, k_first, v_first = (jnp.moveaxis(x, -2, 0) for x in (phi_q, phi_k, values))
    memory, outputs = jax.lax.scan(step, memory, (q_first, k_first, v_first))
    return jnp.moveaxis(outputs, 0, -2), memory


def chunked_attention(
    phi_q: jax.Array,
    phi_k: jax.Array,
    values: jax.Array,
    *,
    chunk_size: int,
    discount: jax.Array | float | None = None,
    initial: AdditiveMemory | None = None,
    keep_states: bool = True,
) -> _Outputs:
    """Causal attention in chunks, with a backward pass that recomputes chunk by chunk.

    Args:
        phi_q: Features of queries, [..., L, M].
        phi_k: Features of keys, [..., L, M].
        values: [..., L, D].
        chunk_size: C; a last, shorter chunk takes what is left of L.
        discount: lambda in (0, 1], a scalar, or None for 1.
        initial: The memory before the first step; empty if None.
        keep_states: Whether the backward pass finds the state at each chunk's start in memory, or
            regains it by subtraction from the one after it.

    Returns:
        Outputs [..., L, D], and the memory after the last step.

    Raises:
        ValueError: If states are to be regained under a discount: the division by lambda^C would
            amplify rounding without bound.
    """
    if discount is not None and not keep_states:
        raise ValueError("a discounted memory cannot be regained by subtraction: keep the states")
    memory = empty_memory(phi_k, values) if initial is None else initial
    decay = jnp.asarray(1.0 if discount is None else discount, phi_k.dtype)
    length = phi_q.shape[-2]
    whole = length - length % chunk_size
    outputs = []
    for start, stop, size in ((0, whole, chunk_size), (whole, length, length - whole)):
        if stop > start:
            q, k, v = (_split(x[..., start:stop, :], size) for x in (phi_q, phi_k, values))
            out, memory = _attend_chunks(keep_states, (q, k, v), decay, memory)
            outputs.append(_join(out))
    return jnp.concatenate(outputs, axis=-2), memory


def _split(x: jax.Array, size: int) -> jax.Array:
    """Cuts [..., L, D] into chunks [L / size, ..., size, D]."""
    chunks = x.reshape(*x.shape[:-2], x.shape[-2] // size, size, x.shape[-1])
    return jnp.moveaxis(chunks, -3, 0)


def _join(chunks: jax.Array) -> jax.Array:
    """Undoes `_split`."""
    x = jnp.moveaxis(chunks, 0, -3)
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])


def _contribution(inputs: _Inputs, decay: jax.Array) -> AdditiveMemory:
    """What one chunk adds to the memory: each step's write, faded to the chunk's end."""
    _, phi_k, values = inputs
    size = phi_k.shape[-2]
    faded = phi_k * _powers(decay, jnp.arange(size - 1, -1, -1))[:, None]
    return AdditiveMemory(jnp.einsum("...cm,...cd->...md", faded, values), jnp.sum(faded, axis=-2))


def _attend_chunk(inputs: _Inputs, decay: jax.Array, memory: AdditiveMemory) -> _Outputs:
    """One chunk: what it sees of itself by a C x C matrix, what came before through the memory."""
    phi_q, phi_k, values = inputs
    size = phi_q.shape[-2]
    steps = jnp.arange(size)
    ages = steps[:, None] - steps
    weights = jnp.einsum("...im,...jm->...ij", phi_q, phi_k)
    weights = weights * jnp.where(ages >= 0, _powers(decay, jnp.maximum(ages, 0)), 0.0)
    before = phi_q * _powers(decay, steps + 1)[:, None]
    numerator = weights @ values + jnp.einsum("...im,...md->...id", before, memory.content)
    denominator = jnp.sum(weights, axis=-1)
    denominator = denominator + jnp.einsum("...im,...m->...i", before, memory.normalizer)
    added = _contribution(inputs, decay)
    fade = _powers(decay, jnp.asarray(size))
    after = AdditiveMemory(
        fade * memory.content + added.content, fade * memory.normalizer + added.normalizer
    )
    return divide_or_zero(numerator, denominator), after


def _powers(decay: jax.Array, exponents: jax.Array) -> jax.Array:
    """Returns decay^n for integers n >= 0, with the derivative n decay^(n-1), also at n = 0."""
    return decay ** exponents.astype(decay.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend_chunks(
    keep_states: bool, chunks: _Inputs, decay: jax.Array, memory: AdditiveMemory
) -> _Outputs:
    """Runs over chunks [chunks, ..., C, *]; returns outputs alike and the last memory."""
    return _forward(keep_states, chunks, decay, memory)[0]


def _forward(
    keep_states: bool, chunks: _Inputs, decay: jax.Array, memory: AdditiveMemory
) -> tuple[_Outputs, _Residuals]:
    """Returns the outputs, and the states at the starts of chunks or the last one."""

    def step(
        state: AdditiveMemory, inputs: _Inputs
    ) -> tuple[AdditiveMemory, tuple[jax.Array, AdditiveMemory | None]]:
        out, after = _attend_chunk(inputs, decay, state)
        return after, (out, state if keep_states else None)

    last, (outputs, starts) = jax.lax.scan(step, memory, chunks)
    return (outputs, last), (chunks, decay, last if starts is None else starts)


def _backward(
    keep_states: bool, residuals: _Residuals, cotangents: _Outputs
) -> tuple[_Inputs, jax.Array, AdditiveMemory]:
    """Goes through the chunks last to first, recomputing each before it is differentiated."""
    chunks, decay, kept = residuals
    output_cotangents, memory_cotangent = cotangents

    def step(carry, xs):  # type: ignore[no-untyped-def]
        after, memory_cotangent, decay_cotangent = carry
        inputs, output_cotangent, start = xs
        if not keep_states:
            added = _contribution(inputs, decay)
            start = jax.tree.map(jnp.subtract, after, added)
        _, pullback = jax.vjp(_attend_chunk, inputs, decay, start)
        input_cotangent, step_decay, memory_cotangent = pullback(
            (output_cotangent, memory_cotangent)
        )
        next_carry = (None if keep_states else start, memory_cotangent)
        return (*next_carry, decay_cotangent + step_decay), input_cotangent

    carry = (None if keep_states else kept, memory_cotangent, jnp.zeros_like(decay))
    xs = (chunks, output_cotangents, kept if keep_states else None)
    (_, memory_cotangent, decay_cotangent), inputs = jax.lax.scan(step, carry, xs, reverse=True)
    return inputs, decay_cotangent, memory_cotangent


_attend_chunks.defvjp(_forward, _backward)
