"""Golden vectors: what another implementation of an optimizer is held to.

Gradients come from a counter-based generator that is a few lines in any language, so the file holds
only what an optimizer computes: its state before the first step, the updates of every step, and its
state after the last. They are made on the CPU with full float32 products.

The generator: for a stream s and a counter i, both 32-bit, with products modulo 2^32,

    x = 0x9E3779B9 i + 0x85EBCA6B (s + 1)
    x = (x ^ (x >> 16)) * 0x85EBCA6B;   x = (x ^ (x >> 13)) * 0xC2B2AE35;   x = x ^ (x >> 16)
    value = (x >> 8) 2^-23 - 1, in [-1, 1)

The gradient of tensor k at step t uses stream 1024 t + k, with the coordinates in the order of the
tensor's own shape, last axis fastest. The loss told at step t is 2 / (1 + t); the horizon is not.

A plan names the tensors. Of small plans everything is kept, of large ones a sample.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from mnemosyne_metatrain.export import export, load
from mnemosyne_metatrain.layout import Layout, ParameterSpec
from mnemosyne_metatrain.optimizers.base import StepInputs, Theta, Updates
from mnemosyne_metatrain.optimizers.registry import make_optimizer

STEPS = 5
STREAMS = 1024


@dataclass(frozen=True)
class Plan:
    """Tensors of one set of vectors.

    Attributes:
        name: Part of the file's name; "" is the plan whose state is kept too.
        specs: The tensors.
        chunk_size: Most coordinates in a chunk; 0 is the optimizer's own.
        stride: Every so many coordinates of an update are kept, and all tensors' are joined; 0
            keeps updates whole.
    """

    name: str
    specs: tuple[ParameterSpec, ...]
    chunk_size: int = 0
    stride: int = 0


def _spec(index: int, shape: tuple[int, ...], transposed: bool = False) -> ParameterSpec:
    """A tensor whose last axis is its outputs; vectors and scalars have fan-in 1."""
    if len(shape) < 2:
        return ParameterSpec(f"t{index}", shape)
    inputs = math.prod(shape[:-1])
    return ParameterSpec(f"t{index}", shape, inputs, shape[-1], transposed)


# Odd shapes, a transposed tensor, a convolution, a bias and a scalar.
_STATE = Plan(
    "",
    (
        ParameterSpec("matrix", (37, 19), 37, 19),
        ParameterSpec("transposed", (24, 32), 24, 32, transposed=True),
        ParameterSpec("kernel", (3, 3, 2, 5), 18, 5),
        ParameterSpec("bias", (7,)),
        ParameterSpec("scalar", ()),
    ),
    chunk_size=256,
)
_SHAPES = Plan(
    "shapes",
    tuple(
        _spec(i, shape, transposed=i == 10)
        for i, shape in enumerate(
            (
                (),
                (1,),
                (31,),
                (33,),
                (1023,),
                (1025,),
                (900, 5),
                (5, 900),
                (3, 3, 8, 12),
                (3, 3, 2, 4, 6),
                (70, 90),
            )
        )
    ),
    stride=1,
)
_MANY = Plan(
    "many",
    tuple(
        _spec(i, ((1 + 37 * i % 300,), (2 + i % 29, 3 + i % 31), (3, 3, 2, 1 + i % 7))[i % 3])
        for i in range(500)
    ),
    stride=17,
)
_LARGE = Plan("large", (_spec(0, (3163, 3163)),), stride=9973)
PLANS = {plan.name: plan for plan in (_STATE, _SHAPES, _MANY, _LARGE)}


def counter_values(stream: int, count: int) -> NDArray[np.float32]:
    """The generator's values 0 to count - 1 of a stream."""
    seed = np.uint32((0x85EBCA6B * (stream + 1)) & 0xFFFFFFFF)
    x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) + seed
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    x = x ^ (x >> np.uint32(16))
    return ((x >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23)) - np.float32(1.0)


def gradient(step: int, index: int, spec: ParameterSpec) -> NDArray[np.float32]:
    """The gradient of one tensor at one step."""
    return counter_values(STREAMS * step + index, spec.size).reshape(spec.shape)


def golden_vectors(weights: Path, plan: Plan = _STATE) -> tuple[dict[str, Any], dict[str, str]]:
    """Runs an exported optimizer.

    Args:
        weights: The exported file.
        plan: The tensors.

    Returns:
        Arrays, and what describes them. Of a plan without stride: "before.<leaf>",
        "update.<step>.<tensor>", "keep.<step>.<tensor>", "after.<leaf>", where a leaf is a path in
        the state; leaves that are zero before the first step are left out. Of a plan with one:
        "update.<step>", every stride-th coordinate of all tensors joined, and "keep.<step>" [T].
    """
    optimizer, theta = load(weights)
    config: Any = optimizer.config  # type: ignore[attr-defined]
    chunk_size = plan.chunk_size or int(config.chunk_size)
    layout = Layout(plan.specs, int(config.cell_size), chunk_size)
    arrays: dict[str, Any] = {}
    with jax.default_matmul_precision("highest"):
        prepared = optimizer.prepare(theta, layout)
        state = optimizer.init(layout, None)
        if not plan.stride:
            arrays = {k: v for k, v in _leaves("before", state).items() if v.any()}
        step = jax.jit(lambda s, g, i: optimizer.update(theta, prepared, layout, s, g, i))
        for t in range(STEPS):
            grads = {s.name: jnp.asarray(gradient(t, k, s)) for k, s in enumerate(plan.specs)}
            loss = jnp.asarray(2.0 / (1 + t), jnp.float32)
            inputs = StepInputs.untold()._replace(loss=loss, has_loss=jnp.ones(()))
            updates, state = step(state, grads, inputs)
            arrays |= _kept(t, updates, plan)
        if not plan.stride:
            arrays |= _leaves("after", state)
    specs = [
        {
            "name": s.name,
            "shape": s.shape,
            "fan_in": s.fan_in,
            "fan_out": s.fan_out,
            "transposed": s.transposed,
        }
        for s in plan.specs
    ]
    table = {
        "specs": specs,
        "cell_size": int(config.cell_size),
        "chunk_size": chunk_size,
        "steps": STEPS,
        "streams": STREAMS,
        "stride": plan.stride,
    }
    return arrays, {"optimizer": optimizer.name, "plan": json.dumps(table)}


def _kept(step: int, updates: Updates, plan: Plan) -> dict[str, Any]:
    """What a plan keeps of a step."""
    delta = {s.name: np.array(updates.delta[s.name], np.float32, order="C") for s in plan.specs}
    keep = {s.name: np.array(updates.keep[s.name], np.float32) for s in plan.specs}
    if plan.stride:
        sampled = [value.reshape(-1)[:: plan.stride] for value in delta.values()]
        joined = {f"update.{step}": np.concatenate(sampled)}
        return joined | {f"keep.{step}": np.stack(list(keep.values()))}
    whole = {f"update.{step}.{name}": value for name, value in delta.items()}
    return whole | {f"keep.{step}.{name}": value for name, value in keep.items()}


def _leaves(prefix: str, state: Any) -> dict[str, Any]:
    """Arrays of a state by their dotted paths."""
    pairs = jax.tree_util.tree_flatten_with_path(state)[0]
    return {
        prefix + jax.tree_util.keystr(path): np.array(value, np.float32, order="C")
        for path, value in pairs
    }


def write_golden(weights: Path, folder: Path, plan: Plan = _STATE) -> Path:
    """Writes the vectors of an exported file, named after its optimizer, version and plan."""
    arrays, metadata = golden_vectors(weights, plan)
    folder.mkdir(parents=True, exist_ok=True)
    suffix = f"_{plan.name}" if plan.name else ""
    path = folder / f"{metadata['optimizer']}_{weights.parent.name}{suffix}.safetensors"
    save_file(arrays, path, metadata)
    return path


# Versions of test weights, and what their config has of its own.
TEST_VERSIONS: dict[str, dict[str, Any]] = {
    "0.0.1": {},
    "0.0.2": {"write_rule": "delta"},
    "0.0.3": {"write_rule": "recurrent_delta"},
    # The sizes that are shipped.
    "0.0.4": {
        "cell_size": 128,
        "chunk_size": 4096,
        "cell_width": 8,
        "cell_features": 8,
        "cell_hidden": 8,
    },
}


def write_test_weights(kind: str, folder: Path, version: str = "0.0.1") -> Path:
    """Writes weights that no meta-training made: every part of the optimizer has its say in them.

    Args:
        kind: An optimizer, with its usual sizes.
        folder: Where <kind>/<version>/weights.safetensors goes.
        version: One of TEST_VERSIONS.
    """
    optimizer = make_optimizer({"kind": kind, **TEST_VERSIONS[version]})
    theta = optimizer.init_theta(jax.random.key(0))
    leaves, tree = jax.tree.flatten(theta.learned)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    theta = Theta(jax.tree.unflatten(tree, moved), theta.fixed)
    return export(optimizer, theta, folder / kind / version, version, {"run": "test"})
