"""A step that leaves while its gradients are still being computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy.typing as npt

from mnemosyne_client import messages
from mnemosyne_client.connection import Connection
from mnemosyne_client.tensors import Grid, encode


class Draft:
    """The beginning of a step: what has been sent of it.

    OptimizeStream.begin_early() makes it, and OptimizeStream.step() completes it. One that is not
    completed does no harm: the daemon forgets it when the step is begun anew. add() may be called
    from any thread.

    Attributes:
        connection: Where it was sent; on another one the step has to be sent whole.
        begin: How the step was begun.
    """

    def __init__(
        self,
        connection: Connection,
        begin: messages.StepBegin,
        grid: Grid,
        encoding: int,
        *,
        checksums: bool,
    ):
        """Begins the step."""
        self.connection = connection
        self.begin = begin
        self._grid = grid
        self._encoding = encoding
        self._checksums = checksums
        self._sent: set[int] = set()
        connection.send([messages.OptimizeRequest(begin=begin)])

    def add(self, parameter: int, gradient: Callable[[], npt.NDArray[Any] | None]) -> None:
        """Sends the gradient of a parameter.

        Args:
            parameter: The parameter's number; each is sent once.
            gradient: Returns the gradient; called on the sending thread.
        """
        self._sent.add(parameter)
        self.connection.send(self._requests(parameter, gradient))

    def has(self, parameter: int) -> bool:
        """Returns whether the gradient of a parameter has been sent."""
        return parameter in self._sent

    def fits(self, connection: Connection, begin: messages.StepBegin) -> bool:
        """Returns whether a step that begins like this can be completed from here."""
        expected = messages.StepBegin()
        expected.CopyFrom(begin)
        # The loss may be told at the end.
        expected.ClearField("loss")
        return connection is self.connection and expected == self.begin

    def _requests(
        self, parameter: int, gradient: Callable[[], npt.NDArray[Any] | None]
    ) -> Iterator[messages.OptimizeRequest]:
        values = gradient()
        arrays: list[npt.NDArray[Any] | None] = [None] * len(self._grid.sizes)
        arrays[parameter] = None if values is None else encode(values, self._encoding)
        for group in self._grid.pack(arrays, checksums=self._checksums):
            yield messages.OptimizeRequest(chunks=group)
