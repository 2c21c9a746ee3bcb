"""A task of the evaluation suite: one net, one set of data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from mnemosyne_metatrain.layout import ParameterSpec, Params
from mnemosyne_metatrain.suite.nets import Declaration
from mnemosyne_metatrain.tasks.base import Batch, Data, Split

_HELD_OUT_BATCHES = 32
_HELD_OUT_SEED = 999

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
        fixed: The held-out examples that losses are reported on, as stacked batches; without it
            they are drawn once from a key of their own.
    """

    name: str
    declaration: Declaration
    make_data: Callable[[], Data]
    draw_batch: DrawBatch
    compute_loss: ComputeLoss
    initial: Callable[[jax.Array], Params] | None = None
    fixed: Callable[[Data], Batch] | None = None

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

    def held_out(self, data: Data) -> Batch:
        """The fixed held-out examples, the same in every run, as stacked batches."""
        if self.fixed is not None:
            return self.fixed(data)
        keys = jax.random.split(jax.random.key(_HELD_OUT_SEED), _HELD_OUT_BATCHES)
        return jax.vmap(lambda key: self.draw_batch(key, data, "validation"))(keys)

    def transposed(self, name: str) -> SuiteTask:
        """The same task, of which the optimizer sees every tensor with its axes reversed."""
        specs = [dataclasses.replace(s, transposed=not s.transposed) for s in self.specs]
        declaration = Declaration(specs, self.declaration.scales)
        return dataclasses.replace(self, name=name, declaration=declaration)

    def loss(self, params: Params, batch: Batch, drawn: Any = None) -> jax.Array:
        """The loss of a batch."""
        return self.compute_loss(params, batch)
