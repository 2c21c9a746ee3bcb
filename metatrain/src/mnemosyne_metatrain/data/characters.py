"""Characters as small integers: 63 symbols, and one for all others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 64
_ALPHABET = "\n abcdefghijklmnopqrstuvwxyz0123456789.,:;()[]{}=+-*/_'\"#<>!?@%"


def encode(text: str) -> NDArray[np.uint8]:
    """Maps text to integers below 64: lower case, and 0 for what is not in the set."""
    index = {symbol: i + 1 for i, symbol in enumerate(_ALPHABET[: VOCABULARY - 1])}
    return np.fromiter((index.get(symbol, 0) for symbol in text.lower()), np.uint8)
