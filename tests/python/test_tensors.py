"""Encodings, the chunk grid and updates."""

from __future__ import annotations

import numpy as np
import pytest

from mnemosyne_client import Update, messages
from mnemosyne_client.tensors import Grid, UpdateAssembler, decode, encode, encoding_number

BF16, FP16, FP32 = (encoding_number(n) for n in ("bfloat16", "float16", "float32"))


def test_bfloat16_rounds_to_nearest_even():
    one = np.float32(1)
    ulp = np.float32(2**-7)
    values = np.array([one + ulp / 2, one + 3 * ulp / 2, one + ulp / 4, -one, 0], np.float32)

    decoded = decode(encode(values, BF16).tobytes(), BF16)

    np.testing.assert_array_equal(decoded, [1, 1 + 2 * ulp, 1, -1, 0])


def test_bfloat16_keeps_infinities_and_nan():
    largest = np.finfo(np.float32).max
    signalling = np.array([0x7F800001], np.uint32).view(np.float32)[0]
    values = np.array([np.inf, -np.inf, np.nan, signalling, largest], np.float32)

    decoded = decode(encode(values, BF16).tobytes(), BF16)

    np.testing.assert_array_equal(decoded, [np.inf, -np.inf, np.nan, np.nan, np.inf])


def test_bfloat16_has_the_bits_of_torch():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).integers(0, 2**32, 10000, np.uint32).view(np.float32)
    values = values[np.isfinite(values)]

    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)

    np.testing.assert_array_equal(encode(values, BF16), expected)


def test_float16_turns_what_is_too_large_into_infinity():
    decoded = decode(encode(np.array([1e6, -1e6, 0.1]), FP16).tobytes(), FP16)

    np.testing.assert_array_equal(decoded, [np.inf, -np.inf, np.float16(0.1)])


def test_float32_travels_without_a_copy():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)

    assert np.shares_memory(encode(values, FP32), values)


def test_an_unknown_encoding_is_refused():
    with pytest.raises(ValueError, match="there are float32, bfloat16, float16"):
        encoding_number("int8")


@pytest.mark.parametrize("checksums", [False, True])
def test_the_grid_cuts_and_joins(checksums):
    shapes = [(10,), (), (3, 5), (8,)]
    arrays = [np.random.default_rng(0).normal(size=s).astype(np.float32) for s in shapes]
    flat = [a.reshape(-1) for a in arrays]
    flat[3] = None
    grid = Grid([a.size for a in arrays], cell_elements=4)

    groups = list(grid.pack(flat, checksums=checksums))
    assembler = UpdateAssembler(shapes, 4, FP32)
    chunks = [chunk for group in groups for chunk in group]
    for chunk in reversed(chunks):
        assembler.add(chunk)

    assert [(c.parameter, c.cell) for c in chunks] == [
        *[(0, cell) for cell in range(3)],
        (1, 0),
        *[(2, cell) for cell in range(4)],
    ]
    assert all(c.HasField("crc32c") == checksums for c in chunks)
    for update, array in zip(assembler.updates()[:3], arrays):
        np.testing.assert_array_equal(update.values, array)
    assert assembler.updates()[3] is None


def test_messages_stay_below_their_limit():
    flat = [np.zeros(n, np.float32) for n in (3_000_000, *[1] * 50_000, 400_000)]
    grid = Grid([len(f) for f in flat], cell_elements=1 << 18)

    groups = list(grid.pack(flat, checksums=True))

    sizes = [messages.OptimizeRequest(chunks=group).ByteSize() for group in groups]
    assert max(sizes) < 2 << 20 and len(groups) < 20


def test_a_step_without_chunks_is_one_empty_group():
    assert list(Grid([4], 4).pack([None], checksums=False)) == [[]]


def test_a_damaged_chunk_is_refused():
    chunk = messages.TensorChunk(payload=b"\0\0\0\0", crc32c=1)

    with pytest.raises(ValueError, match="damaged"):
        UpdateAssembler([(1,)], 4, FP32).add(chunk)


def test_an_update_decays_before_it_is_added():
    parameter = np.array([10.0, 20.0], np.float32)

    Update(np.array([1, 2], np.float32), decay=0.5, scale=-2.0).apply_to(parameter)

    np.testing.assert_array_equal(parameter, [3, 6])
