"""CRC-32C against its definition, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest

from mnemosyne_client import checksum


def definition(data: bytes) -> int:
    register = 0xFFFFFFFF
    for value in data:
        register ^= value
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_has_the_known_value():
    assert checksum.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("length", [0, 1, 7, 4096, 8191, 8192, 8193, 24577, 40000])
def test_is_that_of_the_definition(length):
    data = np.random.default_rng(length).integers(0, 256, length, np.uint8)

    assert checksum._finish(checksum._numpy_crc(data)) == definition(data.tobytes())
    assert checksum.crc32c(data) == definition(data.tobytes())
