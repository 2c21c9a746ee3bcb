"""The cache of datasets: the same arrays on every machine that it is carried to."""

from pathlib import Path

import numpy as np
import pytest

from mnemosyne_metatrain.data import cache
from mnemosyne_metatrain.data.characters import VOCABULARY, encode
from mnemosyne_metatrain.data.sources import Absent, Source


def _missing() -> dict:
    raise Absent("package nothing is not installed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    counts = Source("numpy", "test", lambda: {"values": np.arange(5)})
    sources = {"counts": counts, "missing": Source("numpy", "test", _missing)}
    monkeypatch.setattr(cache, "SOURCES", sources)
    monkeypatch.setenv("MNEMOSYNE_DATA", str(tmp_path))
    return tmp_path


def test_an_absent_cache_is_made_when_it_is_read(folder: Path) -> None:
    assert cache.load_arrays("counts")["values"].tolist() == [0, 1, 2, 3, 4]
    assert (folder / "manifest.json").exists()


def test_preparing_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    assert cache.prepare(folder) == cache.prepare(tmp_path / "other")


def test_refuses_a_file_that_is_not_the_manifest_s(folder: Path) -> None:
    cache.prepare(folder)
    np.savez_compressed(folder / "counts.npz", values=np.zeros(5))
    with pytest.raises(ValueError, match="not the file of the manifest"):
        cache.load_arrays("counts")


def test_says_why_a_dataset_is_absent(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="package nothing is not installed"):
        cache.load_arrays("missing")


def test_characters_outside_the_set_share_a_symbol() -> None:
    assert encode("a\u00e9A\u00fc").tolist() == [3, 0, 3, 0]
    assert encode("%").tolist() == [VOCABULARY - 1]
