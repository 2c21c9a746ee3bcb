"""Writes weights where the daemon reads them: models/<name>/<version>/weights.safetensors.

Every array of the weights is one tensor; its name is its path in the tree, joined by dots, under
`learned` or `fixed`. The configuration is JSON in the metadata, so that a file describes itself.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from mnemosyne_metatrain.optimizers.base import Optimizer, Theta, Tree
from mnemosyne_metatrain.optimizers.registry import make_optimizer

FORMAT = "mnemosyne-theta-1"
MAX_BYTES = 8 << 20


def flatten(tree: Tree, prefix: str) -> dict[str, np.ndarray[Any, Any]]:
    """Returns arrays by their dotted paths."""
    result = {}
    for name, value in tree.items():
        path = f"{prefix}.{name}"
        if isinstance(value, dict):
            result.update(flatten(value, path))
        else:
            result[path] = np.array(value, np.float32, order="C")
    return result


def optimizer_table(optimizer: Optimizer) -> dict[str, Any]:
    """The configuration of an optimizer, as `make_optimizer` takes it."""
    config: Any = optimizer.config  # type: ignore[attr-defined]
    table: dict[str, Any] = dataclasses.asdict(config)
    table.pop("normalized", None)
    return {"kind": optimizer.name, **table}


def export(
    optimizer: Optimizer, theta: Theta, folder: Path, version: str, facts: dict[str, str]
) -> Path:
    """Writes `weights.safetensors` to a folder.

    Args:
        optimizer: What these are the weights of.
        theta: The weights.
        folder: models/<name>/<version>.
        version: Version of the weights.
        facts: More to say in the metadata.

    Raises:
        ValueError: If the file is larger than the daemon takes, or a weight is not finite.
    """
    tensors = {**flatten(theta.learned, "learned"), **flatten(theta.fixed, "fixed")}
    if not all(np.isfinite(value).all() for value in tensors.values()):
        raise ValueError("a weight is not finite")
    table = json.dumps(optimizer_table(optimizer), sort_keys=True)
    metadata = {"format": FORMAT, "name": optimizer.name, "version": version, "config": table}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "weights.safetensors"
    draft = folder / "weights.draft"
    save_file(tensors, draft, {**metadata, **facts})
    size = draft.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"the weights have {size} bytes, more than {MAX_BYTES}")
    draft.chmod(0o644)  # The library lets nobody else read it, and a daemon is another user.
    draft.replace(path)
    return path


def load(path: Path) -> tuple[Optimizer, Theta]:
    """Reads an exported file back.

    Raises:
        ValueError: If the file is of another format, or its arrays do not fit its configuration.
    """
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} is not of format {FORMAT}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    optimizer = make_optimizer(json.loads(metadata["config"]))
    like = jax.eval_shape(optimizer.init_theta, jax.random.key(0))
    expected = {**_shapes(like.learned, "learned"), **_shapes(like.fixed, "fixed")}
    found = {name: value.shape for name, value in tensors.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        raise ValueError(f"{path}: arrays do not fit the configuration: {wrong[:4]}")
    return optimizer, Theta(
        _unflatten(like.learned, "learned", tensors), _unflatten(like.fixed, "fixed", tensors)
    )


def _shapes(tree: Tree, prefix: str) -> dict[str, tuple[int, ...]]:
    result: dict[str, tuple[int, ...]] = {}
    for name, value in tree.items():
        path = f"{prefix}.{name}"
        if isinstance(value, dict):
            result.update(_shapes(value, path))
        else:
            result[path] = tuple(value.shape)
    return result


def _unflatten(like: Tree, prefix: str, tensors: dict[str, Any]) -> Tree:
    return {
        name: _unflatten(value, f"{prefix}.{name}", tensors)
        if isinstance(value, dict)
        else jnp.asarray(tensors[f"{prefix}.{name}"])
        for name, value in like.items()
    }
