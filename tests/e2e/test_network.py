"""Networks that break: the jobs end with the bits of a quiet run."""

from __future__ import annotations

import pytest
from e2e_chaos import Job
from e2e_daemon import DaemonProcess, wait_until
from e2e_proxy import Proxy

from mnemosyne_client import Client, SupersededError

STEPS = 20


@pytest.fixture(scope="module")
def network_daemon(tmp_path_factory):
    state = tmp_path_factory.mktemp("network") / "state"
    daemon = DaemonProcess(
        *("--heartbeat-seconds", "1", "--cell-elements", "256", "--models", "none"),
        *("--state-dir", str(state), "--snapshot-steps", "5"),
    )
    yield daemon
    assert daemon.stop() == 0, daemon.log[-5000:]


@pytest.fixture(scope="module")
def expected(network_daemon):
    with Client(network_daemon.tcp) as client:
        job = Job(client, "adamw", "snapshot", "undisturbed")
        job.run(STEPS)
        job.close()
        return job.bits()


@pytest.fixture
def proxy(network_daemon):
    proxy = Proxy(network_daemon.tcp)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("fault", ["reset", "stall", "cut_client"])
def test_a_broken_network_costs_no_bit(proxy, expected, fault):
    with Client(proxy.address, wait_seconds=120, timeout=60) as client:
        job = Job(client, "adamw", "snapshot", fault)
        client._caller.timeout = 3
        for step in range(STEPS):
            if step in (7, 15):
                getattr(proxy, fault)()
            job.run(1)
        assert job.bits() == expected
        assert "reconnected" in [event.kind for event in job.events]
        job.close()


def test_a_reset_in_the_middle_of_a_step_costs_no_bit(proxy, expected):
    with Client(proxy.address, wait_seconds=60, timeout=60) as client:
        job = Job(client, "adamw", "snapshot", "in the middle")
        job.run(1)
        received = []
        for step in range(1, STEPS):
            if step % 5 == 0:
                # The daemon has the step, and the answer is lost with the connection.
                connection = job.stream._link.connect()
                original = connection.receive

                def lose(timeout, original=original):
                    response = original(timeout)
                    received.append(response)
                    proxy.reset()
                    return original(timeout)

                connection.receive = lose
            job.run(1)
        assert len(received) >= 3
        assert job.bits() == expected
        job.close()


def test_an_opening_that_arrives_late_takes_nothing_over(network_daemon, proxy, expected):
    with Client(proxy.address, wait_seconds=120, timeout=60) as client:
        job = Job(client, "adamw", "snapshot", "late")
        job.run(5)
        client._caller.timeout = 3
        # The next connection is under way for long; the client gives it up and makes another one.
        proxy.hold_next()
        accepted = proxy.accepted
        proxy.reset()
        job.run(5)
        assert proxy.accepted >= accepted + 2
        client._caller.timeout = 60  # Nothing breaks from here on.
        with Client(network_daemon.tcp) as direct:
            epoch = direct.current_epoch(job.session.name)
            proxy.release()
            for _ in range(STEPS - 10):
                job.run(1)
            assert direct.current_epoch(job.session.name) == epoch
        assert job.bits() == expected
        job.close()


def test_a_late_opening_is_told_so(network_daemon):
    with Client(network_daemon.tcp) as client:
        job = Job(client, "adamw", "snapshot", "told")
        job.run(1)
        link = job.stream._link
        link.drop()
        link._request.attempt -= 1
        link._check_not_superseded = lambda: None
        with pytest.raises(SupersededError) as caught:
            job.run(1)
        assert caught.value.reason == "STALE_OPENING"
        job.close()


def test_a_daemon_sees_that_its_client_is_half_gone(own_daemon):
    # A step that is begun holds the session for ten seconds: time to see that it does.
    daemon = own_daemon("--heartbeat-seconds", "1", "--step-timeout-seconds", "10")
    proxy = Proxy(daemon.tcp)
    with Client(proxy.address, timeout=60) as client, Client(daemon.tcp) as direct:
        job = Job(client, "adamw", "snapshot", "half")
        job.run(1)
        draft = job.stream.begin_early()
        gradient = job.gradients()[0]
        draft.add(0, lambda: gradient)
        wait_until(lambda: direct.get_session(job.session.name).streaming, 60)
        proxy.cut_client()
        # The step that was begun does not hold the session for ever.
        wait_until(lambda: not direct.get_session(job.session.name).streaming, 60)
    proxy.close()
