"""Fixtures of the client's unit tests: a fake daemon, and a client of it."""

from __future__ import annotations

import pytest
from fake_daemon import FakeDaemon

from mnemosyne_client import Client


@pytest.fixture
def daemon():
    fake = FakeDaemon()
    yield fake
    fake.close()


@pytest.fixture
def client(daemon):
    with Client(daemon.address, wait_seconds=20, timeout=10) as client:
        yield client
