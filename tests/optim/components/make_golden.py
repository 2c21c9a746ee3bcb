"""Writes tests/golden/components.safetensors: what metatrain's components give for small inputs.

Run it in metatrain's environment after a change of the components:

    .venv-metatrain/bin/python tests/optim/components/make_golden.py

Inputs are rounded to float32, results are computed in float64 and then rounded.
"""

from __future__ import annotations

from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from mnemosyne_metatrain.components import (  # noqa: E402
    associative_memory,
    causal_attention,
    feature_maps,
    flt,
    linear_attention,
    projections,
)
from safetensors.numpy import save_file  # noqa: E402

ROOT = Path(__file__).parents[3]
INPUTS, FEATURES, WIDTH, LENGTH = 6, 12, 5, 9


def draw(seed: int, *shape: int, scale: float = 1.0) -> jax.Array:
    """Returns normal numbers that float32 holds exactly."""
    values = scale * np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values.astype(np.float32), jnp.float64)


def feature_map_cases() -> dict[str, jax.Array]:
    x = draw(1, LENGTH, INPUTS, scale=0.5)
    arrays = {"map.x": x}
    for kind in ("favor_plus", "favor_plus_plus", "hyperbolic", "relu", "elu", "dpfp"):
        features = INPUTS if kind == "elu" else 2 * FEATURES
        config = feature_maps.FeatureMapConfig(kind, INPUTS, features, square_sum=1.5, epsilon=0.01)
        projection = draw(2, config.num_rows, INPUTS)
        if config.num_rows:
            arrays[f"map.{kind}.projection"] = projection
        arrays[f"map.{kind}"] = feature_maps.apply_feature_map(config, x, projection)
    return arrays


def attention_cases() -> dict[str, jax.Array]:
    phi_q, phi_k = jnp.abs(draw(3, LENGTH, FEATURES)), jnp.abs(draw(4, LENGTH, FEATURES))
    values = draw(5, LENGTH, WIDTH)
    mask = jnp.asarray([1.0, 1, 0, 1, 1, 1, 0, 0, 1])
    discount = 0.75
    causal, memory = causal_attention.recurrent_attention(phi_q, phi_k, values, discount)
    chunked, _ = causal_attention.chunked_attention(
        phi_q, phi_k, values, chunk_size=4, discount=discount
    )
    assert jnp.allclose(causal, chunked)
    return {
        "attention.phi_q": phi_q,
        "attention.phi_k": phi_k,
        "attention.values": values,
        "attention.mask": mask,
        "attention.bidirectional": linear_attention.bidirectional_attention(
            phi_q, phi_k, values, mask
        ),
        "attention.causal": causal,
        "attention.content": memory.content,
        "attention.normalizer": memory.normalizer,
    }


def delta_cases() -> dict[str, jax.Array]:
    arrays = attention_cases()
    phi_q, phi_k, values = (arrays[f"attention.{name}"] for name in ("phi_q", "phi_k", "values"))
    betas = jax.nn.sigmoid(draw(6, LENGTH))
    betas = betas.astype(jnp.float32).astype(jnp.float64)
    content, outputs = jnp.zeros((FEATURES, WIDTH)), []
    for t in range(LENGTH):
        inputs = associative_memory.FastWeightInputs(phi_q[t], phi_k[t], values[t], betas[t])
        content, out = associative_memory.step_delta(content, inputs, 0.875)
        outputs.append(out)
    return {"delta.betas": betas, "delta.out": jnp.stack(outputs), "delta.content": content}


def recurrent_delta_cases() -> dict[str, jax.Array]:
    """A recurrent Delta Net whose feature map is elu + 1."""
    x = draw(7, LENGTH, INPUTS)
    sizes = {"query": FEATURES, "key": FEATURES, "value": WIDTH, "beta": 1}
    weights = {}
    for i, (name, size) in enumerate(sizes.items()):
        weights[name] = draw(10 + i, INPUTS, size, scale=0.4)
        weights[f"recurrent_{name}"] = draw(20 + i, WIDTH, size, scale=0.4)
    project = associative_memory.recurrent_projection(weights, feature_maps.elu_plus_one)
    state = associative_memory.DeltaNetState(jnp.zeros((FEATURES, WIDTH)), jnp.zeros(WIDTH))
    outputs = []
    for t in range(LENGTH):
        state, out = associative_memory.step_recurrent_delta_net(state, project, x[t], 0.9375)
        outputs.append(out)
    named = {f"recurrent.{name}": value for name, value in weights.items()}
    return {"recurrent.x": x, "recurrent.out": jnp.stack(outputs), **named}


def flt_cases() -> dict[str, jax.Array]:
    arrays = {}
    for kind, dimensions in (
        ("gaussian_mixture", 2),
        ("shift_invariant", 2),
        ("local_box", 2),
        ("local_ball", 3),
    ):
        config = flt.SpectrumConfig(
            kind, dimensions, 7, num_modes=3, asymmetric=True, frequency_scale=1.5
        )
        base = draw(30, 7, dimensions)
        params = flt.init_spectrum(jax.random.key(0), config, jnp.float64)
        params = {
            name: (value + draw(31 + i, *value.shape, scale=0.3)).astype(jnp.float32)
            for i, (name, value) in enumerate(sorted(params.items()))
        }
        params = {name: value.astype(jnp.float64) for name, value in params.items()}
        positions = draw(40, LENGTH, dimensions)
        query, key = flt.positional_features(flt.spectrum(config, params, base), positions)
        arrays |= {f"flt.{kind}.{name}": value for name, value in params.items()}
        arrays |= {
            f"flt.{kind}.base": base,
            f"flt.{kind}.positions": positions,
            f"flt.{kind}.query": query,
            f"flt.{kind}.key": key,
        }
    return arrays


def projection_cases() -> dict[str, jax.Array]:
    vectors = draw(50, 2, 4, INPUTS).at[0, 1].set(0.0)
    norms = jnp.abs(draw(51, 10))
    gaussian = draw(52, INPUTS, INPUTS)
    q, r = jnp.linalg.qr(gaussian)
    return {
        "cwy.vectors": vectors,
        "cwy.norms": norms,
        "cwy.matrix": projections.cwy_projection(vectors, norms).matrix,
        "qr.gaussian": gaussian,
        "qr.factor": q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0),
    }


def main() -> None:
    arrays = {}
    for cases in (
        feature_map_cases,
        attention_cases,
        delta_cases,
        recurrent_delta_cases,
        flt_cases,
        projection_cases,
    ):
        arrays |= cases()
    save_file(
        {name: np.array(value, np.float32, order="C") for name, value in arrays.items()},
        ROOT / "tests" / "golden" / "components.safetensors",
    )


if __name__ == "__main__":
    main()
