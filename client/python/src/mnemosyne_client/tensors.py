"""How tensors travel: encodings of elements, and the chunk grid.

A tensor is flattened in row-major order and cut into cells of `cell_elements` elements; the last
cell holds what is left. Elements are little-endian float32, bfloat16 or float16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mnemosyne_client import messages
from mnemosyne_client.checksum import crc32c

Float32Array = npt.NDArray[np.float32]

# Payload bytes of a message: large enough to be cheap, well below gRPC's limit of 4 MiB.
_PAYLOAD_BYTES_TARGET = 1 << 20

ENCODINGS = {
    "float32": messages.DATA_TYPE_FLOAT32,
    "bfloat16": messages.DATA_TYPE_BFLOAT16,
    "float16": messages.DATA_TYPE_FLOAT16,
}
_WIRE_TYPES: dict[int, np.dtype[Any]] = {
    messages.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    messages.DATA_TYPE_BFLOAT16: np.dtype("<u2"),
    messages.DATA_TYPE_FLOAT16: np.dtype("<f2"),
}


def encoding_number(name: str) -> int:
    """Returns the wire's number of an encoding.

    Raises:
        ValueError: The name is none of float32, bfloat16 and float16.
    """
    if name not in ENCODINGS:
        raise ValueError(f"unknown encoding {name!r}; there are {', '.join(ENCODINGS)}")
    return ENCODINGS[name]


def encode(values: npt.NDArray[Any], encoding: int) -> npt.NDArray[Any]:
    """Returns the elements of `values` as they travel, flat; a view where nothing changes.

    bfloat16 rounds to nearest, ties to even, and arrives as uint16. float16 turns what is beyond
    its range into infinity.
    """
    flat = np.asarray(values, order="C").reshape(-1)
    if encoding == messages.DATA_TYPE_BFLOAT16:
        return _round_to_bfloat16(flat.astype(np.float32, copy=False))
    if encoding == messages.DATA_TYPE_FLOAT16:
        with np.errstate(over="ignore"):
            return flat.astype(np.float16, copy=False)
    return flat.astype(np.float32, copy=False)


def decode(payload: bytes, encoding: int) -> Float32Array:
    """Returns the float32 values of a payload; read-only where they are the payload itself."""
    raw = np.frombuffer(payload, dtype=_WIRE_TYPES[encoding])
    if encoding == messages.DATA_TYPE_BFLOAT16:
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    values: Float32Array = raw.astype(np.float32, copy=False)
    return values


def _round_to_bfloat16(values: Float32Array) -> npt.NDArray[np.uint16]:
    bits = values.view(np.uint32)
    # The carry may run into the exponent, which is what rounding up to the next power of 2 is.
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    is_nan = np.isnan(values)
    if is_nan.any():
        rounded[is_nan] = (bits[is_nan] >> 16).astype(np.uint16) | 0x40
    return rounded


@dataclass(frozen=True)
class Grid:
    """How a session's tensors are cut, and how much a message takes.

    Attributes:
        sizes: Elements of each parameter.
        cell_elements: Elements of a cell.
        message_bytes_max: The largest message that the daemon takes.
    """

    sizes: Sequence[int]
    cell_elements: int
    message_bytes_max: int = 4 << 20

    def pack(
        self, arrays: Sequence[npt.NDArray[Any] | None], *, checksums: bool
    ) -> Iterator[list[messages.TensorChunk]]:
        """Yields the chunks of encoded, flat `arrays` in groups that each fit a message.

        A parameter that is None is left out. There is at least one group, which may be empty.
        """
        budget = min(_PAYLOAD_BYTES_TARGET, self.message_bytes_max // 2)
        group: list[messages.TensorChunk] = []
        room = budget
        for parameter, array in enumerate(arrays):
            if array is None:
                continue
            for cell, begin in enumerate(range(0, len(array), self.cell_elements)):
                payload = array[begin : begin + self.cell_elements].tobytes()
                # What a chunk costs besides its payload is at most about 32 bytes.
                cost = len(payload) + 32
                if group and cost > room:
                    yield group
                    group, room = [], budget
                chunk = messages.TensorChunk(parameter=parameter, cell=cell, payload=payload)
                if checksums:
                    chunk.crc32c = crc32c(payload)
                group.append(chunk)
                room -= cost
        yield group


@dataclass
class Update:
    """What a step does to one parameter: p <- (1 - decay) p + scale * values.

    Attributes:
        values: float32, of the parameter's shape.
        decay: The share of the parameter that goes; 0 where there is no decoupled weight decay.
        scale: The factor on `values`.
    """

    values: Float32Array
    decay: float = 0.0
    scale: float = 1.0

    def apply_to(self, parameter: npt.NDArray[Any]) -> None:
        """Applies the update to `parameter` in place."""
        if self.decay != 0:
            parameter *= 1 - self.decay
        if self.scale == 1:
            parameter += self.values
        else:
            parameter += self.values * parameter.dtype.type(self.scale)


class UpdateAssembler:
    """Puts the chunks of a step's answer together into updates.

    Not thread-safe.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], cell_elements: int, encoding: int):
        """Starts with no updates.

        Args:
            shapes: The shape of each parameter.
            cell_elements: Elements of a cell.
            encoding: The encoding of the payloads.
        """
        self._shapes = shapes
        self._cell_elements = cell_elements
        self._encoding = encoding
        self._updates: list[Update | None] = [None] * len(shapes)

    def add(self, chunk: messages.TensorChunk) -> None:
        """Takes one chunk.

        Raises:
            ValueError: The chunk's checksum is wrong, or the chunk has no place in the grid.
        """
        payload = chunk.payload
        if chunk.HasField("crc32c") and crc32c(payload) != chunk.crc32c:
            raise ValueError(f"the update of parameter {chunk.parameter} arrived damaged")
        update = self._updates[chunk.parameter]
        if update is None:
            values = np.zeros(self._shapes[chunk.parameter], dtype=np.float32)
            scale = chunk.scale if chunk.HasField("scale") else 1.0
            update = Update(values, chunk.decay, scale)
            self._updates[chunk.parameter] = update
        begin = chunk.cell * self._cell_elements
        update.values.reshape(-1)[begin : begin + self._cell_elements] = decode(
            payload, self._encoding
        )

    def updates(self) -> list[Update | None]:
        """Returns the update of each parameter; None for one that took no part in the step."""
        return self._updates
