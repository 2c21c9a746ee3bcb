"""What evolution may change of an optimizer's weights, as one flat vector.

A learned array enters as it is. A knob, which is a positive prior such as a step size, enters as
its logarithm. Each entry has its own scale, so that one standard deviation serves all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mnemosyne_metatrain.optimizers.base import Theta, Tree


def flatten(tree: Tree, prefix: str = "") -> dict[str, jax.Array]:
    """Returns the leaves of nested dictionaries by their dotted paths."""
    result: dict[str, jax.Array] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        result |= flatten(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return result


def replace(tree: Tree, leaves: dict[str, jax.Array], prefix: str = "") -> Tree:
    """Returns nested dictionaries with some leaves replaced."""
    return {
        name: replace(value, leaves, f"{prefix}{name}.")
        if isinstance(value, dict)
        else leaves.get(f"{prefix}{name}", value)
        for name, value in tree.items()
    }


@dataclass(frozen=True)
class SearchSpace:
    """Which numbers of a theta are searched.

    Attributes:
        learned: Prefixes of the dotted paths of learned arrays, with the scale of their entries.
        knobs: Names of positive knobs, with the scale of their logarithms.
    """

    learned: dict[str, float]
    knobs: dict[str, float]

    def _parts(self, theta: Theta) -> list[tuple[str, jax.Array, float]]:
        """(name, value, scale) of every searched array, in a fixed order."""
        parts = []
        for path, value in sorted(flatten(theta.learned).items()):
            scales = [s for prefix, s in self.learned.items() if path.startswith(prefix)]
            if scales:
                parts.append((path, value, scales[0]))
        knobs = theta.fixed.get("knobs", {})
        for name, scale in sorted(self.knobs.items()):
            parts.append((f"knobs.{name}", jnp.log(knobs[name]), scale))
        return parts

    def vector(self, theta: Theta) -> jax.Array:
        """Returns the searched numbers over their scales, [n]."""
        return jnp.concatenate([v.reshape(-1) / scale for _, v, scale in self._parts(theta)])

    def theta(self, like: Theta, vector: jax.Array) -> Theta:
        """Returns `like` with the numbers of a vector in place of its own."""
        learned, knobs, start = {}, dict(like.fixed.get("knobs", {})), 0
        for name, value, scale in self._parts(like):
            part = scale * vector[start : start + value.size].reshape(value.shape)
            start += value.size
            if name.startswith("knobs."):
                knobs[name.removeprefix("knobs.")] = jnp.exp(part)
            else:
                learned[name] = part
        fixed = {**like.fixed, "knobs": knobs} if knobs else like.fixed
        return Theta(replace(like.learned, learned), fixed)
