"""Spreads a population of variants over devices: each trains its share, and none waits for another.

Variants have nothing in common but tasks, batches and the clock, so every device runs the program
of a smaller population on its own, and nothing is sent between them. With N variants, as many
devices are used as divide N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")
_AXIS = "variants"
_SPLIT: PartitionSpec = PartitionSpec(_AXIS)  # type: ignore[no-untyped-call]
_WHOLE: PartitionSpec = PartitionSpec()  # type: ignore[no-untyped-call]


def variant_mesh(num_variants: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh of the most devices whose number divides that of the variants."""
    devices = jax.devices() if devices is None else devices
    count = max(d for d in range(1, len(devices) + 1) if num_variants % d == 0)
    return Mesh(np.asarray(devices[:count]), (_AXIS,))


def split(mesh: Mesh, tree: T) -> T:
    """Puts a population [P, ...] on its devices."""
    placed: T = jax.device_put(tree, NamedSharding(mesh, _SPLIT))
    return placed


def shared_sharding(mesh: Mesh) -> NamedSharding:
    """Where what all variants share is: on every device."""
    return NamedSharding(mesh, _WHOLE)


def everywhere(mesh: Mesh, tree: T) -> T:
    """Puts what all variants share on every device."""
    placed: T = jax.device_put(tree, shared_sharding(mesh))
    return placed


def map_variants(
    mesh: Mesh, function: Callable[..., Any], mapped: Sequence[bool]
) -> Callable[..., Any]:
    """Maps a function of one variant over a population that is spread over a mesh.

    Args:
        mesh: From `variant_mesh`.
        function: Of one variant.
        mapped: For each argument, whether it has a leading axis of variants [P, ...]; the others
            are shared. All results have one.
    """
    vectorized = jax.vmap(function, in_axes=tuple(0 if m else None for m in mapped))
    if mesh.size == 1:
        return vectorized
    specs = tuple(_SPLIT if m else _WHOLE for m in mapped)
    # Nothing is sent between devices, so there is nothing for the check of replication to check.
    spread: Callable[..., Any] = jax.shard_map(
        vectorized, mesh=mesh, in_specs=specs, out_specs=_SPLIT, check_vma=False
    )
    return spread
