"""Characters of English and code that ship with Python, as arrays of small integers."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 64
_ALPHABET = "\n abcdefghijklmnopqrstuvwxyz0123456789.,:;()[]{}=+-*/_'\"#<>!?@%"


def encode(text: str) -> NDArray[np.int32]:
    """Maps text to integers below 64: lower case, and one symbol for what is not in the set."""
    index = {symbol: i + 1 for i, symbol in enumerate(_ALPHABET[: VOCABULARY - 1])}
    return np.asarray([index.get(symbol, 0) for symbol in text.lower()], np.int32)


@cache
def source_text(modules: tuple[str, ...]) -> NDArray[np.int32]:
    """The source code of modules of the standard library, encoded."""
    specs = [importlib.util.find_spec(name) for name in modules]
    return encode("\n".join(Path(str(s.origin)).read_text("utf-8") for s in specs if s))


@cache
def manual_text() -> NDArray[np.int32]:
    """The language reference that Python's help() prints: about half a million letters, encoded."""
    from pydoc_data import topics

    return encode("\n".join(topics.topics[name] for name in sorted(topics.topics)))


def split_text(text: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The first nine tenths, and the last tenth for validation."""
    cut = len(text) * 9 // 10
    return text[:cut], text[cut:]
