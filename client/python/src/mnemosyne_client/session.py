"""A session as its owner holds it, and the state of one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mnemosyne_client import messages
from mnemosyne_client.checksum import crc32c
from mnemosyne_client.errors import ServerError

_STATE_TYPES: dict[int, np.dtype[Any]] = {
    messages.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    messages.DATA_TYPE_BFLOAT16: np.dtype("<u2"),
    messages.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    messages.DATA_TYPE_FLOAT64: np.dtype("<f8"),
}
_PART_BYTES = 1 << 20


@dataclass(frozen=True)
class Session:
    """A session and the right to use it.

    Attributes:
        name: `sessions/...`.
        token: The secret that its calls need; keep it out of logs and checkpoints.
        details: What the daemon said of it when it was made or attached to.
    """

    name: str
    token: str = field(repr=False)
    details: messages.Session = field(repr=False, compare=False)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of each parameter."""
        return [tuple(parameter.shape) for parameter in self.details.spec.parameters]

    @property
    def sizes(self) -> list[int]:
        """The number of elements of each parameter."""
        return [math.prod(shape) for shape in self.shapes]


@dataclass
class State:
    """The state of a session between two steps.

    Attributes:
        header: The optimizer, parameters, values, step and clocks, and the list of tensors.
        data: uint8, the bytes of all tensors in the header's order.
    """

    header: messages.StateHeader
    data: npt.NDArray[np.uint8]

    def tensors(self) -> dict[tuple[str, int], npt.NDArray[Any]]:
        """Returns a view of each tensor by slot, such as `exp_avg`, and parameter number.

        bfloat16 appears as uint16.
        """
        views = {}
        offset = 0
        for tensor in self.header.tensors:
            raw = self.data[offset : offset + tensor.byte_count]
            views[tensor.slot, tensor.parameter] = raw.view(_STATE_TYPES[tensor.data_type]).reshape(
                tuple(tensor.shape)
            )
            offset += tensor.byte_count
        return views

    def parts(self) -> Iterator[messages.StatePart]:
        """Yields the state as it travels."""
        yield messages.StatePart(header=self.header)
        for begin in range(0, len(self.data), _PART_BYTES):
            yield messages.StatePart(data=self.data[begin : begin + _PART_BYTES].tobytes())
        yield messages.StatePart(end=messages.StateEnd(crc32c=crc32c(self.data)))

    @classmethod
    def of_parts(cls, parts: Iterable[messages.StatePart]) -> State:
        """Puts a state together.

        Raises:
            ServerError: The parts are out of order, incomplete or damaged.
        """
        header: messages.StateHeader | None = None
        data = np.zeros(0, dtype=np.uint8)
        filled = 0
        for part in parts:
            kind = part.WhichOneof("part")
            if kind == "header":
                header = part.header
                data = np.zeros(header.byte_count, dtype=np.uint8)
            elif kind == "data" and filled + len(part.data) <= len(data):
                data[filled : filled + len(part.data)] = np.frombuffer(part.data, dtype=np.uint8)
                filled += len(part.data)
            elif kind == "end" and header is not None and filled == len(data):
                if crc32c(data) != part.end.crc32c:
                    break
                return cls(header, data)
            else:
                break
        raise ServerError(
            "the state arrived incomplete or damaged; export it again", code="DATA_LOSS"
        )
