"""Runs each test of the estimators in double precision, without a global switch."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """Allows float64 arrays inside a test."""
    with jax.enable_x64(True):
        yield
