"""What a task is: a family draws tasks that share shapes, so that many are trained at once."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import jax

from mnemosyne_metatrain.layout import ParameterSpec, Params

Split = Literal["train", "validation"]
Drawn = Any
Batch = Any
Data = Any


class TaskFamily(Protocol):
    """A family of tasks with the same shapes.

    What differs between its tasks is a pytree of arrays, drawn by `draw`. Data is a pytree of
    arrays too, passed along so that no compiled program holds a copy of it.
    """

    @property
    def name(self) -> str:
        """Name in configurations and reports."""
        ...

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """The tensors of its nets."""
        ...

    def data(self) -> Data:
        """Loads or makes the data; the same in every run."""
        ...

    def draw(self, key: jax.Array) -> Drawn:
        """Draws a task."""
        ...

    def init(self, key: jax.Array, drawn: Drawn) -> Params:
        """Draws initial parameters."""
        ...

    def batch(self, key: jax.Array, drawn: Drawn, data: Data, split: Split) -> Batch:
        """Draws a batch."""
        ...

    def loss(self, params: Params, batch: Batch, drawn: Drawn) -> jax.Array:
        """The mean loss of a batch, a scalar."""
        ...
