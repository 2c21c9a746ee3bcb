"""How a set of tensors becomes chunks of cells, and back.

A tensor is flattened, cut into cells of `cell_size` coordinates in a row, and its cells are shared
out over chunks of at most `chunk_size` coordinates, so that chunks of a tensor differ by at most
one cell. All chunks of all tensors are stacked into one array [chunks, cells, cell_size], padded
with zeros: one operation then serves the whole net. `mask` says which coordinates are real.

A layout is static: plain numpy, built once, closed over by what is compiled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Params = dict[str, jax.Array]


@dataclass(frozen=True)
class ParameterSpec:
    """What an optimizer knows of one tensor.

    Attributes:
        name: Key in the parameter dictionary.
        shape: Its shape.
        fan_in: Inputs summed into one output; 1 for biases, gains and embeddings.
        fan_out: Outputs that one input feeds; 1 for biases and gains.
        transposed: Whether the optimizer sees the axes in reverse order, as another framework
            would store the same tensor.
    """

    name: str
    shape: tuple[int, ...]
    fan_in: int = 1
    fan_out: int = 1
    transposed: bool = False

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return math.prod(self.shape)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape in the order in which the optimizer reads the tensor."""
        return self.shape[::-1] if self.transposed else self.shape


StorageOrder = Literal["some", "others", "all", "none"]


def stored(specs: tuple[ParameterSpec, ...], order: StorageOrder) -> tuple[ParameterSpec, ...]:
    """Returns the same tensors with their axes stored in another order.

    Frameworks differ in it, and a net's updates should not. The order is static: tasks of one
    compiled program share it, and families of a run may differ.

    Args:
        specs: The tensors.
        order: Which tensors of two axes or more are stored with their axes reversed: "some" are
            those that `specs` says, "others" are the rest of them, "all", or "none".

    Raises:
        ValueError: If the order is unknown.
    """
    if order not in get_args(StorageOrder):
        raise ValueError(f"unknown storage order: {order!r}")

    def is_reversed(spec: ParameterSpec) -> bool:
        if order in ("some", "others"):
            return spec.transposed == (order == "some")
        return order == "all"

    return tuple(
        replace(spec, transposed=len(spec.shape) > 1 and is_reversed(spec)) for spec in specs
    )


@dataclass(frozen=True)
class Layout:
    """Static plan of a net's chunks.

    Attributes:
        specs: The tensors, in order.
        cell_size: Coordinates in a cell.
        chunk_size: Most coordinates in a chunk; a multiple of `cell_size`.
    """

    specs: tuple[ParameterSpec, ...]
    cell_size: int = 32
    chunk_size: int = 1024

    @cached_property
    def plan(self) -> tuple[tuple[int, int, int], ...]:
        """For each tensor (chunks with one cell more, all chunks, cells of the larger chunks)."""
        rows = []
        for spec in self.specs:
            cells = -(-spec.size // self.cell_size)
            chunks = -(-cells * self.cell_size // self.chunk_size)
            larger = cells % chunks
            rows.append((larger or chunks, chunks, -(-cells // chunks)))
        return tuple(rows)

    @property
    def num_chunks(self) -> int:
        """C: chunks of all tensors."""
        return sum(chunks for _, chunks, _ in self.plan)

    @cached_property
    def num_cells(self) -> int:
        """K: cells of the largest chunk, to which all are padded."""
        return max(cells for _, _, cells in self.plan)

    @property
    def num_parameters(self) -> int:
        """Coordinates of all tensors, without padding."""
        return sum(spec.size for spec in self.specs)

    def _groups(self, index: int) -> tuple[tuple[int, int], ...]:
        """Returns (chunks, cells) of the larger and of the smaller chunks of a tensor."""
        larger, chunks, cells = self.plan[index]
        groups = [(larger, cells)]
        if chunks > larger:
            groups.append((chunks - larger, cells - 1))
        return tuple(groups)

    def pack(self, values: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the tensors as [C, K, cell_size], zero where there is no coordinate."""
        pieces = []
        for index, spec in enumerate(self.specs):
            value = values[spec.name]
            flat = (value.transpose() if spec.transposed else value).reshape(-1)
            groups = self._groups(index)
            total = sum(n * k for n, k in groups) * self.cell_size
            flat = jnp.pad(flat, (0, total - spec.size))
            start = 0
            for n, k in groups:
                end = start + n * k * self.cell_size
                piece = flat[start:end].reshape(n, k, self.cell_size)
                pieces.append(jnp.pad(piece, ((0, 0), (0, self.num_cells - k), (0, 0))))
                start = end
        return jnp.concatenate(pieces, axis=0)

    def unpack(self, packed: jax.Array) -> Params:
        """Returns the tensors that [C, K, cell_size] holds; the inverse of `pack`."""
        result = {}
        chunk = 0
        for index, spec in enumerate(self.specs):
            pieces = []
            for n, k in self._groups(index):
                pieces.append(packed[chunk : chunk + n, :k].reshape(-1))
                chunk += n
            flat = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)
            value = flat[: spec.size].reshape(spec.stored_shape)
            result[spec.name] = value.transpose() if spec.transposed else value
        return result

    @cached_property
    def mask(self) -> NDArray[np.float32]:
        """1 for a real coordinate, 0 for padding, [C, K, cell_size]."""
        mask = np.zeros((self.num_chunks, self.num_cells, self.cell_size), np.float32)
        for (start, sizes), spec in zip(self._chunk_sizes(), self.specs, strict=True):
            left = spec.size
            for offset, cells in enumerate(sizes):
                count = min(left, cells * self.cell_size)
                mask[start + offset].reshape(-1)[:count] = 1.0
                left -= count
        return mask

    def _chunk_sizes(self) -> list[tuple[int, list[int]]]:
        """Returns for each tensor its first chunk and the cells of each of its chunks."""
        result, start = [], 0
        for index in range(len(self.specs)):
            sizes = [k for n, k in self._groups(index) for _ in range(n)]
            result.append((start, sizes))
            start += len(sizes)
        return result

    @cached_property
    def cell_mask(self) -> NDArray[np.float32]:
        """1 for a cell with a real coordinate, [C, K]."""
        return np.asarray(self.mask.max(axis=-1))

    @cached_property
    def chunk_counts(self) -> NDArray[np.float32]:
        """n: real coordinates of each chunk, [C]."""
        return np.asarray(self.mask.sum(axis=(1, 2)))

    @cached_property
    def tensor_of_chunk(self) -> NDArray[np.int32]:
        """Index of the tensor that each chunk belongs to, [C]."""
        counts = [chunks for _, chunks, _ in self.plan]
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    @cached_property
    def membership(self) -> NDArray[np.float32]:
        """1 where chunk c belongs to tensor t, [T, C]."""
        tensors = np.arange(len(self.specs), dtype=np.int32)
        return np.asarray(tensors[:, None] == self.tensor_of_chunk[None, :], np.float32)

    @cached_property
    def cell_positions(self) -> NDArray[np.float32]:
        """(row, column) of each cell's middle, each in [0, 1], [C, K, 2]."""
        positions = np.zeros((self.num_chunks, self.num_cells, 2), np.float32)
        for (start, sizes), spec in zip(self._chunk_sizes(), self.specs, strict=True):
            columns = spec.stored_shape[-1] if len(spec.shape) > 1 else spec.size
            rows = max(spec.size // columns, 1)
            first = 0
            for offset, cells in enumerate(sizes):
                middle = (first + np.arange(cells) + 0.5) * self.cell_size
                middle = np.minimum(middle, spec.size - 0.5)
                positions[start + offset, :cells, 0] = np.floor(middle / columns) / rows
                positions[start + offset, :cells, 1] = (middle % columns) / columns
                first += cells
        return positions

    @cached_property
    def chunk_positions(self) -> NDArray[np.float32]:
        """Where each chunk lies in its tensor, in [0, 1], [C, 1]."""
        parts = [
            (np.arange(len(sizes), dtype=np.float32) + 0.5) / len(sizes)
            for _, sizes in self._chunk_sizes()
        ]
        return np.concatenate(parts).astype(np.float32)[:, None]

    def per_chunk(self, values: list[float]) -> NDArray[np.float32]:
        """Spreads one number a tensor over its chunks, [C]."""
        return np.asarray(values, np.float32)[self.tensor_of_chunk]
