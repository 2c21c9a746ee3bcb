"""Bi-directional linear attention: softmax attention's shape at a cost linear in length.

    out_i = sum_j (phi(q_i) . phi(k_j)) v_j / sum_j phi(q_i) . phi(k_j)
          = phi(q_i)^T N / phi(q_i)^T Psi,   N = sum_j phi(k_j) v_j^T,  Psi = sum_j phi(k_j)

Source: arXiv 2006.16236, section 3.2, equations 4 and 5; arXiv 2009.14794, section 2.2.
The causal form is in `causal_attention`, the form with a discount in time in `associative_memory`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def divide_or_zero(
    numerator: jax.Array, denominator: jax.Array, threshold: float = 1e-12
) -> jax.Array:
    """Divides [..., D] by [...], and returns 0 where |denominator| is at most `threshold`.

    Derivatives are finite everywhere: a query that no key answers has output and derivative 0.
    """
    is_safe = jnp.abs(denominator) > threshold
    safe = jnp.where(is_safe, denominator, 1.0)
    return jnp.where(is_safe[..., None], numerator / safe[..., None], 0.0)


def bidirectional_attention(
    phi_q: jax.Array,
    phi_k: jax.Array,
    values: jax.Array,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Attends from every query to every key; cost O((Lq + Lk) M D), no Lq x Lk matrix.

    Args:
        phi_q: Features of queries, [..., Lq, M].
        phi_k: Features of keys, [..., Lk, M].
        values: [..., Lk, D].
        mask: [..., Lk]; a key of weight 0 (padding) is not seen. Other weights scale a key.

    Returns:
        [..., Lq, D]; 0 for a query whose keys all have weight 0.
    """
    if mask is not None:
        phi_k = phi_k * mask[..., None].astype(phi_k.dtype)
    content = jnp.einsum("...km,...kd->...md", phi_k, values)
    normalizer = jnp.sum(phi_k, axis=-2)
    numerator = jnp.einsum("...qm,...md->...qd", phi_q, content)
    denominator = jnp.einsum("...qm,...m->...q", phi_q, normalizer)
    return divide_or_zero(numerator, denominator)
