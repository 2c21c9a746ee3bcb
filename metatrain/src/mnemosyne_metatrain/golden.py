"""Golden vectors: what another implementation of an optimizer is held to.

Gradients come from a counter-based generator that is a few lines in any language, so the file holds
only what an optimizer computes: its state before the first step, the updates of every step, and its
state after the last. They are made on the CPU with full float32 products.

The generator: for a stream s and a counter i, both 32-bit, with products modulo 2^32,

    x = 0x9E3779B9 i + 0x85EBCA6B (s + 1)
    x = (x ^ (x >> 16)) * 0x85EBCA6B;   x = (x ^ (x >> 13)) * 0xC2B2AE35;   x = x ^ (x >> 16)
    value = (x >> 8) 2^-23 - 1, in [-1, 1)

The gradient of tensor k at step t uses stream 64 t + k, with the coordinates in the order of the
tensor's own shape, last axis fastest. The loss told at step t is 2 / (1 + t); the horizon is not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from mnemosyne_metatrain.export import load
from mnemosyne_metatrain.layout import Layout, ParameterSpec
from mnemosyne_metatrain.optimizers.base import StepInputs

STEPS = 5
CHUNK_SIZE = 256

# Odd shapes, a transposed tensor, a convolution, a bias and a scalar.
SPECS = (
    ParameterSpec("matrix", (37, 19), 37, 19),
    ParameterSpec("transposed", (24, 32), 24, 32, transposed=True),
    ParameterSpec("kernel", (3, 3, 2, 5), 18, 5),
    ParameterSpec("bias", (7,)),
    ParameterSpec("scalar", ()),
)


def counter_values(stream: int, count: int) -> NDArray[np.float32]:
    """The generator's values 0 to count - 1 of a stream."""
    seed = np.uint32((0x85EBCA6B * (stream + 1)) & 0xFFFFFFFF)
    x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) + seed
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    x = x ^ (x >> np.uint32(16))
    return ((x >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23)) - np.float32(1.0)


def gradient(step: int, index: int) -> NDArray[np.float32]:
    """The gradient of one tensor at one step."""
    spec = SPECS[index]
    return counter_values(64 * step + index, spec.size).reshape(spec.shape)


def golden_vectors(weights: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Runs an exported optimizer.

    Args:
        weights: The exported file.

    Returns:
        Arrays "before.<leaf>", "update.<step>.<tensor>", "keep.<step>.<tensor>", "after.<leaf>",
        where a leaf is a path in the state; and what describes them. Leaves that are zero before
        the first step are left out.
    """
    optimizer, theta = load(weights)
    cell_size = int(optimizer.config.cell_size)  # type: ignore[attr-defined]
    layout = Layout(SPECS, cell_size, CHUNK_SIZE)
    with jax.default_matmul_precision("highest"):
        prepared = optimizer.prepare(theta, layout)
        state = optimizer.init(layout, None)
        arrays = {k: v for k, v in _leaves("before", state).items() if v.any()}
        step = jax.jit(lambda s, g, i: optimizer.update(theta, prepared, layout, s, g, i))
        for t in range(STEPS):
            grads = {spec.name: jnp.asarray(gradient(t, k)) for k, spec in enumerate(SPECS)}
            loss = jnp.asarray(2.0 / (1 + t), jnp.float32)
            inputs = StepInputs.untold()._replace(loss=loss, has_loss=jnp.ones(()))
            updates, state = step(state, grads, inputs)
            for name, value in updates.delta.items():
                arrays[f"update.{t}.{name}"] = np.array(value, np.float32, order="C")
                arrays[f"keep.{t}.{name}"] = np.array(updates.keep[name], np.float32)
        arrays |= _leaves("after", state)
    specs = [
        {
            "name": s.name,
            "shape": s.shape,
            "fan_in": s.fan_in,
            "fan_out": s.fan_out,
            "transposed": s.transposed,
        }
        for s in SPECS
    ]
    plan = {"specs": specs, "cell_size": cell_size, "chunk_size": CHUNK_SIZE, "steps": STEPS}
    return arrays, {"optimizer": optimizer.name, "plan": json.dumps(plan)}


def _leaves(prefix: str, state: Any) -> dict[str, Any]:
    """Arrays of a state by their dotted paths."""
    pairs = jax.tree_util.tree_flatten_with_path(state)[0]
    return {
        prefix + jax.tree_util.keystr(path): np.array(value, np.float32, order="C")
        for path, value in pairs
    }


def write_golden(weights: Path, folder: Path) -> Path:
    """Writes the vectors of an exported file, named after its optimizer and version."""
    arrays, metadata = golden_vectors(weights)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{metadata['optimizer']}_{weights.parent.name}.safetensors"
    save_file(arrays, path, metadata)
    return path
