"""A task of the evaluation suite: one net, one set of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from mnemosyne_metatrain.layout import ParameterSpec, Params
from mnemosyne_metatrain.suite.nets import Declaration
from mnemosyne_metatrain.tasks.base import Batch, Data, Split

DrawBatch = Callable[[jax.Array, Data, Split], Batch]
ComputeLoss = Callable[[Params, Batch], jax.Array]


@dataclass(frozen=True)
class SuiteTask:
    """A task with nothing left to draw; it is a family of one.

    Attributes:
        name: Name in reports.
        declaration: The tensors.
        make_data: Loads the data.
        draw_batch: Draws a batch.
        compute_loss: The loss of a batch.
        initial: Initial parameters, if they are not drawn from the declaration.
    """

    name: str
    declaration: Declaration
    make_data: Callable[[], Data]
    draw_batch: DrawBatch
    compute_loss: ComputeLoss
    initial: Callable[[jax.Array], Params] | None = None

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """The tensors."""
        return tuple(self.declaration.specs)

    def data(self) -> Data:
        """Loads the data."""
        return self.make_data()

    def draw(self, key: jax.Array) -> None:
        """Draws nothing."""

    def init(self, key: jax.Array, drawn: Any = None) -> Params:
        """Draws initial parameters."""
        return self.initial(key) if self.initial else self.declaration.init(key)

    def batch(self, key: jax.Array, drawn: Any, data: Data, split: Split) -> Batch:
        """Draws a batch."""
        return self.draw_batch(key, data, split)

    def loss(self, params: Params, batch: Batch, drawn: Any = None) -> jax.Array:
        """The loss of a batch."""
        return self.compute_loss(params, batch)
