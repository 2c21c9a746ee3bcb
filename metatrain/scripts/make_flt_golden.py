"""Writes tests/golden/flt.safetensors: FLT attention and its gradients, by JAX in float64.

Run it in metatrain's environment after a change of the components:

    .venv-metatrain/bin/python metatrain/scripts/make_flt_golden.py

Inputs are rounded to float32, results are computed in float64 and then rounded. A loss is the sum
of the outputs times fixed numbers.
"""

from __future__ import annotations

import math
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from mnemosyne_metatrain.components import feature_maps, flt  # noqa: E402

ROOT = Path(__file__).parents[2]
LENGTH, DIM, WIDTH, FEATURES, WAVES, MODES = 24, 6, 5, 12, 4, 3
KINDS = ("gaussian_mixture", "shift_invariant", "local_box", "local_ball")


def draw(seed: int, *shape: int, scale: float = 1.0) -> jax.Array:
    """Returns normal numbers that float32 holds exactly."""
    values = scale * np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(values.astype(np.float32), jnp.float64)


def parameters_of(kind: str, positions: int) -> flt.SpectrumParams:
    """Returns parameters of an asymmetric mask."""
    if kind == "gaussian_mixture":
        return {
            "weights": draw(10, MODES, scale=0.3),
            "odd_weights": draw(11, MODES, scale=0.3),
            "centers": draw(12, MODES, positions, scale=0.3),
            "log_variances": draw(13, MODES, scale=0.3),
        }
    width = "log_precisions" if kind == "shift_invariant" else "log_radius"
    shape = () if kind == "local_ball" else (positions,)
    return {
        "amplitude": draw(14, scale=0.3),
        width: draw(15, *shape, scale=0.3),
        "offset": draw(16, positions, scale=0.3),
    }


def attend(
    inputs: dict[str, jax.Array], config: flt.SpectrumConfig, causal: bool, factor: bool
) -> jax.Array:
    """FLT attention written plainly, over all pairs."""
    params = {
        name.removeprefix("parameter."): value
        for name, value in inputs.items()
        if name.startswith("parameter.")
    }
    waves = flt.spectrum(config, params, inputs["base"])
    query, key = flt.positional_features(waves, inputs["positions"])
    q, k = (inputs[name] / math.sqrt(math.sqrt(DIM)) for name in ("q", "k"))
    if not factor:
        q, k = flt.append_features(q, query), flt.append_features(k, key)
    weights = feature_maps.favor_plus(q, inputs["projection"]) @ (
        feature_maps.favor_plus(k, inputs["projection"]).T
    )
    if factor:
        weights = weights * (inputs["constant"] + query @ key.T)
    if causal:
        weights = jnp.tril(weights)
    return weights @ inputs["v"] / jnp.sum(weights, axis=-1, keepdims=True)


def cases() -> dict[str, jax.Array]:
    """Computes the outputs and the gradients of all cases."""
    arrays = {}
    for kind in KINDS:
        positions = 3 if kind == "local_ball" else 2
        for causal in (False, True):
            for factor in (False, True):
                name = f"{kind}.{'causal' if causal else 'both'}.{'times' if factor else 'plus'}"
                inputs_count = DIM if factor else DIM + 2 * WAVES
                config = flt.SpectrumConfig(
                    kind, positions, WAVES, MODES, asymmetric=True, frequency_scale=0.4
                )
                at = draw(20, LENGTH, positions, scale=2.0)
                inputs = {
                    "q": draw(21, LENGTH, DIM),
                    "k": draw(22, LENGTH, DIM),
                    "v": draw(23, LENGTH, WIDTH),
                    # The kernels measure positions from the first one.
                    "positions": at - at[0],
                    "base": draw(24, WAVES, positions),
                    "projection": draw(25, FEATURES, inputs_count),
                    "constant": jnp.asarray(0.75),
                    **{f"parameter.{k}": v for k, v in parameters_of(kind, positions).items()},
                }
                upstream = draw(26, LENGTH, WIDTH)

                def loss(learned, fixed, config, upstream, causal, factor):
                    out = attend({**fixed, **learned}, config, causal, factor)
                    return jnp.sum(out * upstream), out

                fixed = {name: inputs[name] for name in ("positions", "base")}
                learned = {k: v for k, v in inputs.items() if k not in fixed}
                gradients, out = jax.grad(loss, has_aux=True)(
                    learned, fixed, config, upstream, causal, factor
                )
                arrays |= {f"{name}.{key}": value for key, value in inputs.items()}
                arrays |= {f"{name}.d.{key}": value for key, value in gradients.items()}
                arrays[f"{name}.out"] = out
                arrays[f"{name}.upstream"] = upstream
    return arrays


def main() -> None:
    """Writes the file."""
    arrays = {name: np.asarray(value, np.float32) for name, value in cases().items()}
    save_file(arrays, ROOT / "tests/golden/flt.safetensors")


if __name__ == "__main__":
    main()
