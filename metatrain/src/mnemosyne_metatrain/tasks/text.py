"""Text from the cache of datasets, as arrays of small integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnemosyne_metatrain.data.cache import load_arrays
from mnemosyne_metatrain.data.characters import VOCABULARY, encode

__all__ = [
    "VOCABULARY",
    "docstring_text",
    "encode",
    "manual_text",
    "source_text",
    "split_text",
]

_NEWLINE = encode("\n").astype(np.int32)


def source_text(modules: tuple[str, ...]) -> NDArray[np.int32]:
    """The source code of modules of the standard library, encoded.

    Raises:
        KeyError: If a module is not in the cache.
    """
    arrays = load_arrays("python_source")
    pieces = [part for name in modules for part in (_NEWLINE, arrays[name].astype(np.int32))]
    return np.concatenate(pieces[1:])


def manual_text() -> NDArray[np.int32]:
    """The language reference that Python's help() prints: about half a million letters."""
    return load_arrays("manual")["text"].astype(np.int32)


def docstring_text() -> NDArray[np.int32]:
    """SciPy's documentation: about five million letters."""
    return load_arrays("docstrings")["text"].astype(np.int32)


def split_text(text: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The first nine tenths, and the last tenth for validation."""
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:]
