"""CRC-32C (Castagnoli), the checksum of states and, where a stream asks for it, of chunks.

Uses `google-crc32c` where it is installed (extra `checksums`). Otherwise numpy computes it: data
is cut into lanes of equal length whose checksums advance side by side, and neighbours are then
joined pairwise, because the checksum of a concatenation is a linear function of both halves.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    import google_crc32c
except ImportError:
    google_crc32c = None

_Words = npt.NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78
_LANES = 4096


def crc32c(data: bytes | bytearray | memoryview | npt.NDArray[Any]) -> int:
    """Returns the CRC-32C of contiguous `data`, in [0, 2^32)."""
    values = np.frombuffer(data, dtype=np.uint8)
    if google_crc32c is not None:
        return int(google_crc32c.value(values.tobytes()))
    return _finish(_numpy_crc(values))


def _finish(register: int) -> int:
    return register ^ 0xFFFFFFFF


def _numpy_crc(values: npt.NDArray[np.uint8]) -> int:
    """Returns the register after `values`, starting from all ones."""
    length = len(values) // _LANES & ~1
    register = np.array([0xFFFFFFFF], dtype=np.uint32)
    if length:
        lanes = values[: length * _LANES].reshape(_LANES, length).copy().view("<u2")
        crcs = np.zeros(_LANES, dtype=np.uint32)
        crcs[0] = register[0]
        table = _pair_table()
        for column in np.ascontiguousarray(lanes.T):
            crcs = table[(crcs & 0xFFFF) ^ column] ^ (crcs >> 16)
        span = length
        while len(crcs) > 1:
            crcs = _advance_by_zeros(crcs[0::2], span) ^ crcs[1::2]
            span *= 2
        register = crcs
    bytewise = _byte_table()
    result = int(register[0])
    for value in values[length * _LANES :].tolist():
        result = int(bytewise[(result ^ value) & 0xFF]) ^ (result >> 8)
    return result


@cache
def _byte_table() -> _Words:
    """The register after each byte value, starting from zero."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table.astype(np.uint32)


@cache
def _pair_table() -> _Words:
    """The register after each pair of bytes, starting from zero."""
    byte = _byte_table()
    first = byte[np.arange(65536) & 0xFF] ^ (np.arange(65536, dtype=np.uint32) >> 8)
    table: _Words = (byte[first & 0xFF] ^ (first >> 8)).astype(np.uint32)
    return table


def _advance_by_zeros(registers: _Words, count: int) -> _Words:
    """Returns `registers` after `count` zero bytes: a 32 x 32 matrix over GF(2), by squaring."""
    byte = _byte_table()
    basis = np.uint32(1) << np.arange(32, dtype=np.uint32)
    matrix = byte[basis & 0xFF] ^ (basis >> 8)
    while count:
        if count & 1:
            registers = _multiply(matrix, registers)
        matrix = _multiply(matrix, matrix)
        count >>= 1
    return registers


def _multiply(matrix: _Words, vectors: _Words) -> _Words:
    """Returns matrix * vector for each vector; `matrix` [32] holds the images of single bits."""
    result = np.zeros_like(vectors)
    for bit in range(32):
        result ^= np.where((vectors >> np.uint32(bit)) & 1, matrix[bit], np.uint32(0))
    return result
