"""Checkpoints: the leaves of a pytree in one file, written so that a kill leaves the old one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")

MAX_BYTES = 16 << 20
_NOTE = "note."


def save_checkpoint(
    path: Path, tree: Any, iteration: int, notes: Mapping[str, Any] | None = None
) -> None:
    """Writes a pytree's leaves, an iteration number, and arrays by name.

    Raises:
        ValueError: If the file would have 16 MiB or more; the old one stays.
    """
    leaves = {f"leaf{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(tree))}
    named = {_NOTE + name: np.asarray(value) for name, value in (notes or {}).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb") as file:
        np.savez(file, iteration=np.asarray(iteration), **named, **leaves)  # type: ignore[arg-type]
    size = draft.stat().st_size
    if size >= MAX_BYTES:
        draft.unlink()
        raise ValueError(f"a checkpoint has {size} bytes, expected less than {MAX_BYTES}")
    os.replace(draft, path)


def load_checkpoint(path: Path, like: T) -> tuple[T, int]:
    """Reads a pytree with the structure of `like`, and the iteration number.

    Raises:
        ValueError: If there is no such file, or its arrays do not have the shapes of `like`.
    """
    if not path.exists():
        raise ValueError(f"there is no checkpoint {path}: is the folder that of a run?")
    with np.load(path) as file:
        leaves, structure = jax.tree.flatten(like)
        missing = [i for i in range(len(leaves)) if f"leaf{i}" not in file]
        loaded = [] if missing else [file[f"leaf{i}"] for i in range(len(leaves))]
        shapes = [(np.shape(old), new.shape) for old, new in zip(leaves, loaded, strict=False)]
        if missing or any(old != new for old, new in shapes):
            raise ValueError(f"{path} is of another configuration, or of another kind of run")
        tree = jax.tree.unflatten(structure, [jax.numpy.asarray(x) for x in loaded])
        return tree, int(file["iteration"])


def load_notes(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Reads the arrays that were saved by name."""
    with np.load(path) as file:
        return {name[len(_NOTE) :]: file[name] for name in file.files if name.startswith(_NOTE)}
