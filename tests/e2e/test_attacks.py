"""The daemon's memory has a ceiling, and honest clients go on, whatever hostile ones do."""

from __future__ import annotations

import resource
import ssl
from pathlib import Path

import hostile
import numpy
import pytest
from e2e_daemon import binary, wait_until
from test_security import issue, make_token

from mnemosyne_client import Client, Credentials, MnemosyneError, messages

WIRE_BYTES = 384 << 20
# What docs/operations.md says that the program itself may have.
BASE_BYTES = 64 << 20
SECONDS = 1.5
VALUES = [numpy.ones(64, numpy.float32)]

pytestmark = pytest.mark.skipif(
    binary().parents[1].name in ("asan", "tsan"), reason="sanitizers keep memory of their own"
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    issue(folder, "server", "DNS:localhost,IP:127.0.0.1")
    return folder


class House:
    """A daemon with an honest tenant, and one that is not."""

    def __init__(self, own_daemon, folder: Path, certificates: Path | None):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
        self.honest_token, honest = make_token("honest")
        self.hostile_token, hostile_line = make_token("hostile")
        access = folder / "access"
        access.write_text(f"{honest}\n{hostile_line}\nlimit tenant=hostile sessions=1\n")
        flags = ["--access", str(access), "--memory-max", "64MiB"]
        flags += ["--wire-memory-max", str(WIRE_BYTES), "--models", "none", "--threads", "1"]
        self.root = None
        if certificates is not None:
            self.root = (certificates / "ca.pem").read_bytes()
            flags += ["--tls-certificate", str(certificates / "server.pem")]
            flags += ["--tls-key", str(certificates / "server.key")]
        self.daemon = own_daemon(*flags)
        self.pid = self.daemon.process.pid
        self.start_bytes = hostile.memory_bytes(self.pid)

    def client(self, token: str, **options: str) -> Client:
        credentials = Credentials(
            tls=self.root is not None, root_certificates=self.root, access_token=token
        )
        return Client(self.daemon.tcp, credentials=credentials, timeout=60, **options)

    def attack(self, name: str, token: str | None, **extra: bytes) -> hostile.Attack:
        tls = None
        if self.root is not None:
            tls = ssl.create_default_context(cadata=self.root.decode())
            tls.set_alpn_protocols(["h2"])
        metadata = {"authorization": f"Bearer {token}"} if token else {}
        return hostile.ATTACKS[name](self.daemon.tcp, metadata, tls, **extra)

    def survives(self, attack: hostile.Attack, client: Client, session) -> None:
        with client.open_stream(session) as stream:
            stream.step(VALUES)
            try:
                for _ in range(3):
                    assert hostile.run(attack, SECONDS / 3) > 0
                    stream.step(VALUES)
            finally:
                attack.close()
            stream.step(VALUES)
        peak = hostile.memory_bytes(self.pid, "VmHWM")
        assert peak <= self.start_bytes + BASE_BYTES + WIRE_BYTES
        assert self.daemon.process.poll() is None

        # Whoever comes afterwards is served.
        def served():
            try:
                with self.client(self.honest_token, on_unavailable="raise") as other:
                    return bool(other.server_info().version)
            except MnemosyneError:
                return False

        wait_until(served, 120)


def make_session(client: Client):
    return client.create_session("sgd", [messages.ParameterSpec(name="p", shape=[64])])


def begin_a_step(session) -> bytes:
    """Returns the first message of a stream: it begins a step and leaves it there."""
    request = messages.OptimizeRequest(
        open=messages.OpenStream(session=session.name, token=session.token),
        begin=messages.StepBegin(step=1),
    ).SerializeToString()
    return b"\0" + len(request).to_bytes(4, "big") + request


@pytest.mark.parametrize("name", hostile.ATTACKS)
def test_a_hostile_tenant_has_a_ceiling(tmp_path, own_daemon, name):
    house = House(own_daemon, tmp_path, None)
    with house.client(house.honest_token) as client, house.client(house.hostile_token) as other:
        half_step = begin_a_step(make_session(other))
        attack = house.attack(name, house.hostile_token, half_step=half_step)
        house.survives(attack, client, make_session(client))


@pytest.mark.parametrize(
    "name", ["idle connections", "slow loris", "half-sent messages", "endless headers"]
)
def test_strangers_have_a_ceiling_under_tls(tmp_path, own_daemon, certificates, name):
    house = House(own_daemon, tmp_path, certificates)
    with house.client(house.honest_token) as client:
        house.survives(house.attack(name, None), client, make_session(client))
