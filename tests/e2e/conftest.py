"""Fixtures of the tests with a real daemon, over TCP and over its socket."""

from __future__ import annotations

import pytest
from e2e_daemon import CELL_ELEMENTS, DaemonProcess

from mnemosyne_client import Client


@pytest.fixture(scope="session")
def daemon():
    process = DaemonProcess("--cell-elements", str(CELL_ELEMENTS), "--memory-max", "1GiB")
    yield process
    assert process.stop() == 0, process.log[-5000:]


@pytest.fixture(params=["tcp", "unix"])
def client(request, daemon):
    """A client over each kind of listener."""
    assert daemon.process.poll() is None, "the daemon has died"
    with Client(getattr(daemon, request.param), wait_seconds=60, timeout=60) as client:
        yield client


@pytest.fixture
def tcp_client(daemon):
    """A client over TCP, for what does not depend on the listener."""
    assert daemon.process.poll() is None, "the daemon has died"
    with Client(daemon.tcp, wait_seconds=60, timeout=60) as client:
        yield client


@pytest.fixture
def own_daemon():
    """Starts daemons for one test alone."""
    processes = []

    def start(*flags: str, **options: str) -> DaemonProcess:
        processes.append(DaemonProcess(*flags, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
