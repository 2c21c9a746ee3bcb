"""Golden vectors are what the shipped weights compute here."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from mnemosyne_metatrain.golden import PLANS, counter_values, golden_vectors

ROOT = Path(__file__).parent.parent.parent


def test_generator_has_the_values_that_other_languages_test_for() -> None:
    exact = np.asarray([0.5894307, -0.9820292, 0.34913778], np.float32)
    np.testing.assert_array_equal(counter_values(0, 3), exact)
    values = counter_values(7, 4096)
    assert -1.0 <= values.min() and values.max() < 1.0
    assert abs(values.mean()) < 0.05 and abs(values.std() - 3**-0.5) < 0.02


# The plans of many and of large tensors take minutes to compile here; what they hold beyond the
# others is for the other implementations.
SLOW = ("_many", "_large")
FILES = sorted(
    path for path in (ROOT / "tests/golden").glob("*_*.safetensors") if not path.stem.endswith(SLOW)
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_vectors_are_what_the_weights_compute(path: Path) -> None:
    name, version, *plan = path.name.removesuffix(".safetensors").split("_")
    folder = ROOT / ("tests/golden/models" if version.startswith("0.0.") else "models")
    weights = folder / name / version / "weights.safetensors"
    arrays, _ = golden_vectors(weights, PLANS["".join(plan)])
    with safe_open(path, "numpy") as file:
        assert set(file.keys()) == set(arrays)
        for key, value in arrays.items():
            np.testing.assert_allclose(file.get_tensor(key), value, rtol=1e-4, atol=1e-6)
