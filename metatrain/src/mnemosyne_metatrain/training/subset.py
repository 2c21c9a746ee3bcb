"""Which of its weights a variant learns, and what they cannot read.

A weight with mask 0 stays as it is: its meta-gradient is multiplied by the mask before it is
clipped, and PES does not perturb it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.optimizers.base import Theta, Tree
from mnemosyne_metatrain.optimizers.mnemosyne import Mnemosyne
from mnemosyne_metatrain.optimizers.mnemosyne.inputs import CELLS, CHUNK_INPUTS


def learned_mask(learned: Tree, prefixes: Sequence[str]) -> Tree:
    """Returns 1 for arrays whose dotted name begins with one of the prefixes, 0 for others.

    Args:
        learned: The learned arrays.
        prefixes: Such as "decoder.out"; none stands for everything.

    Raises:
        ValueError: If no array has such a name.
    """
    found: set[str] = set()

    def mask(path: Any, value: jax.Array) -> jax.Array:
        name = ".".join(str(key.key) for key in path)
        mine = [p for p in prefixes if name == p or name.startswith(f"{p}.")]
        found.update(mine)
        return jnp.full_like(value, float(bool(mine) or not prefixes))

    masks: Tree = jax.tree_util.tree_map_with_path(mask, learned)
    unknown = sorted(set(prefixes) - found)
    if unknown:
        raise ValueError(f"no learned array is called {', '.join(unknown)}")
    return masks


def shut(optimizer: Any, theta: Theta, mask: Tree, names: Sequence[str]) -> tuple[Theta, Tree]:
    """Keeps inputs of the flagship's chunks from being read, in weights and mask.

    Args:
        optimizer: The optimizer.
        theta: Its weights.
        mask: From `learned_mask`.
        names: Of `CHUNK_INPUTS`, or "cells".

    Raises:
        ValueError: If a name is unknown, or the optimizer is another one.
    """
    if not names:
        return theta, mask
    if not isinstance(optimizer, Mnemosyne):
        raise ValueError(f"{optimizer.name} has no inputs to shut")
    unknown = sorted(set(names) - {CELLS, *CHUNK_INPUTS})
    if unknown:
        raise ValueError(f"no such inputs: {', '.join(unknown)}")
    width = optimizer.config.cell_width
    rows = [width + CHUNK_INPUTS.index(name) for name in names if name != CELLS]
    rows += list(range(width)) if CELLS in names else []
    index = jnp.asarray(rows)

    def without(learned: Tree) -> Tree:
        spatial = learned["spatial"]
        pool = {**spatial["pool"], "w": spatial["pool"]["w"].at[index].set(0.0)}
        return {**learned, "spatial": {**spatial, "pool": pool}}

    return Theta(without(theta.learned), theta.fixed), without(mask)
