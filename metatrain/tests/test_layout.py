"""Packing tensors into chunks of cells, and back."""

import jax.numpy as jnp
import numpy as np
import pytest

from mnemosyne_metatrain.config import FamilyConfig, RunConfig
from mnemosyne_metatrain.layout import Layout, ParameterSpec, stored
from mnemosyne_metatrain.training.trainer import outer_step

SPECS = (
    ParameterSpec("matrix", (70, 33), 70, 33),
    ParameterSpec("bias", (5,)),
    ParameterSpec("transposed", (64, 32), 64, 32, transposed=True),
    ParameterSpec("kernel", (3, 3, 4, 7), 36, 7),
    ParameterSpec("scalar", ()),
)


@pytest.mark.parametrize("chunk_size", [32, 256, 1024])
def test_unpacking_undoes_packing(chunk_size: int) -> None:
    layout = Layout(SPECS, chunk_size=chunk_size)
    rng = np.random.default_rng(0)
    values = {s.name: jnp.asarray(rng.normal(size=s.shape), jnp.float32) for s in SPECS}
    packed = layout.pack(values)
    assert packed.shape == (layout.num_chunks, layout.num_cells, layout.cell_size)
    back = layout.unpack(packed)
    for name, value in values.items():
        np.testing.assert_array_equal(back[name], value)


@pytest.mark.parametrize("chunk_size", [64, 256, 1024])
def test_mask_marks_exactly_the_coordinates(chunk_size: int) -> None:
    layout = Layout(SPECS, chunk_size=chunk_size)
    ones = {s.name: jnp.ones(s.shape) for s in SPECS}
    np.testing.assert_array_equal(layout.pack(ones), layout.mask)
    assert layout.mask.sum() == layout.num_parameters


def test_chunks_of_a_tensor_differ_by_at_most_one_cell() -> None:
    layout = Layout((ParameterSpec("w", (1025 * 32,)),))
    cells = layout.cell_mask.sum(axis=1)
    assert cells.max() - cells.min() <= 1
    assert cells.sum() == 1025


def test_positions_are_inside_the_unit_square() -> None:
    positions = Layout(SPECS, chunk_size=256).cell_positions
    assert positions.min() >= 0.0
    assert positions.max() < 1.0


@pytest.mark.parametrize(
    ("order", "reversed_"),
    [
        ("some", {"transposed"}),
        ("others", {"matrix", "kernel"}),
        ("all", {"matrix", "transposed", "kernel"}),
        ("none", set()),
    ],
)
def test_families_may_store_their_axes_in_other_orders(order: str, reversed_: set) -> None:
    specs = stored(SPECS, order)
    assert {s.name for s in specs if s.transposed} == reversed_
    layout = Layout(specs, chunk_size=256)
    values = {s.name: jnp.arange(s.size, dtype=jnp.float32).reshape(s.shape) for s in SPECS}
    for name, value in layout.unpack(layout.pack(values)).items():
        np.testing.assert_array_equal(value, values[name])


def test_a_family_of_a_run_has_its_own_order_and_chunks() -> None:
    config = RunConfig("orders", optimizer={"kind": "lstm"})
    family = FamilyConfig("mlp", (8,), chunk_size=128, transposed="all")
    layout = outer_step(config, family).layout
    assert [s.transposed for s in layout.specs] == [True, False, True, False]
    assert layout.chunk_size == 128


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown storage order"):
        stored(SPECS, "sideways")
