"""Who may come in, over a network that nobody trusts: TLS, certificates, access tokens."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy
import pytest
from e2e_daemon import binary, wait_until

from mnemosyne_client import Client, Credentials, MnemosyneError, SessionLostError, messages

SECRET_NAME = "planted-parameter-name"
SECRET_LABEL = "planted-label"


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)


def issue(folder: Path, name: str, names: str) -> None:
    """Makes NAME.pem and NAME.key, of the authority in ca.pem."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    at = folder / name
    if not (folder / "ca.pem").exists():
        ca = folder / "ca"
        openssl(
            *("req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem"),
            *("-days", "2", "-subj", "/CN=root"),
        )
    openssl("req", *key, "-keyout", f"{at}.key", "-out", f"{at}.csr", "-subj", f"/CN={name}")
    at.with_suffix(".ext").write_text(f"subjectAltName={names}\n")
    openssl(
        *("x509", "-req", "-in", f"{at}.csr", "-CA", f"{folder}/ca.pem"),
        *("-CAkey", f"{folder}/ca.key", "-CAcreateserial", "-out", f"{at}.pem"),
        *("-days", "2", "-extfile", f"{at}.ext"),
    )


def make_token(tenant: str, *flags: str) -> tuple[str, str]:
    """Returns a token and its line."""
    program = binary().with_name("mnemosynectl")
    made = subprocess.run(
        [program, "--json", "token", tenant, *flags], capture_output=True, check=True, timeout=30
    )
    answer = json.loads(made.stdout)
    return answer["token"], answer["line"]


@pytest.fixture
def house(tmp_path, own_daemon):
    """A daemon with two tenants; one comes with a token, the other with a certificate."""
    issue(tmp_path, "server", "DNS:localhost,IP:127.0.0.1")
    issue(tmp_path, "client", "DNS:trainer.example")
    token, line = make_token("vision")
    access = tmp_path / "access"
    access.write_text(f"{line}\ncertificate tenant=speech name=trainer.example\n")
    daemon = own_daemon(
        *("--tls-certificate", str(tmp_path / "server.pem")),
        *("--tls-key", str(tmp_path / "server.key")),
        *("--tls-client-ca", str(tmp_path / "ca.pem"), "--tls-clients", "request"),
        *("--access", str(access), "--audit-log", str(tmp_path / "audit")),
    )
    ca = (tmp_path / "ca.pem").read_bytes()
    clients = {
        "vision": Credentials(tls=True, root_certificates=ca, access_token=token),
        "speech": Credentials.from_files(
            ca=tmp_path / "ca.pem",
            certificate=tmp_path / "client.pem",
            key=tmp_path / "client.key",
        ),
        "nobody": Credentials(tls=True, root_certificates=ca),
        "plain": Credentials(),
    }
    return daemon, clients, tmp_path


def connect(house, who: str) -> Client:
    daemon, credentials, _ = house
    return Client(daemon.tcp, credentials=credentials[who], on_unavailable="raise", timeout=10)


def make_session(client: Client):
    parameters = [messages.ParameterSpec(name=SECRET_NAME, shape=[4])]
    return client.create_session("sgd", parameters, label=SECRET_LABEL)


@pytest.mark.parametrize("who", ["vision", "speech"])
def test_a_tenant_trains(house, who):
    with connect(house, who) as client:
        session = make_session(client)
        with client.open_stream(session) as stream:
            for step in range(1, 4):
                assert stream.step([numpy.ones(4, numpy.float32)]).step == step
        state = client.export_state(session)
        client.import_state(session, state)
        client.delete_session(session)


@pytest.mark.parametrize("who", ["nobody", "plain"])
def test_a_stranger_does_not(house, who):
    with connect(house, who) as client, pytest.raises(MnemosyneError) as refused:
        client.list_optimizers()
    assert refused.value.code in ("UNAUTHENTICATED", "UNAVAILABLE")


def test_tenants_do_not_see_each_other_and_nothing_leaks(house):
    daemon, _, folder = house
    with connect(house, "vision") as vision, connect(house, "speech") as speech:
        session = make_session(vision)
        assert [s.name for s in vision.list_sessions()] == [session.name]
        assert list(speech.list_sessions()) == []
        said = []
        for call in (
            lambda: speech.get_session(session.name),
            lambda: speech.delete_session(session),
            lambda: speech.export_state(session),
            lambda: speech.open_stream(session).step([numpy.full(4, 31337, numpy.float32)]),
        ):
            with pytest.raises(SessionLostError) as lost:
                call()
            said.append(f"{lost.value} {lost.value.metadata}")
        info = speech.server_info()
        assert info.session_count == 0
        assert info.reserved_bytes == 0
        with vision.open_stream(session) as stream, pytest.raises(MnemosyneError) as refused:
            stream.step([numpy.full(4, numpy.nan, numpy.float32)])
        said.append(str(refused.value).replace(SECRET_NAME, ""))  # Its own parameter's name.
    assert daemon.stop() == 0
    token = house[1]["vision"].access_token.rpartition("_")[2]
    secrets = [token, session.token, SECRET_LABEL, "31337", str(folder), "vision", "127.0.0.1"]
    for text in said:
        assert not [secret for secret in secrets if secret in text], text
    private = [token, session.token, SECRET_LABEL, "31337"]
    private += [line for line in (folder / "server.key").read_text().splitlines() if line]
    for text in (daemon.log, (folder / "audit").read_text()):
        assert not [secret for secret in private if secret in text]


def test_a_revoked_token_ends_its_streams(house):
    _, _, folder = house
    with connect(house, "vision") as client:
        session = make_session(client)
        with client.open_stream(session) as stream:
            stream.step([numpy.ones(4, numpy.float32)])
            (folder / "new").write_text("# nobody\n")
            (folder / "new").rename(folder / "access")

            def refused():
                try:
                    stream.step([numpy.ones(4, numpy.float32)])
                except MnemosyneError as error:
                    return error.code == "UNAUTHENTICATED"
                return False

            wait_until(refused, 20)


def test_a_new_certificate_needs_no_restart(house):
    daemon, credentials, folder = house
    with connect(house, "vision") as client:
        client.server_info()
    other = folder / "other"
    other.mkdir()
    issue(other, "server", "DNS:localhost,IP:127.0.0.1")
    # The certificate comes first; until its key has followed, the old pair is served.
    (other / "server.pem").rename(folder / "server.pem")
    with connect(house, "vision") as client:
        client.server_info()
    (other / "server.key").rename(folder / "server.key")
    renewed = Credentials(
        tls=True,
        root_certificates=(other / "ca.pem").read_bytes(),
        access_token=credentials["vision"].access_token,
    )

    def served():
        try:
            with Client(daemon.tcp, credentials=renewed, on_unavailable="raise") as client:
                client.server_info()
        except MnemosyneError:
            return False
        return True

    wait_until(served, 20)


def test_a_token_is_not_sent_in_plaintext_beyond_this_machine():
    token, _ = make_token("vision")
    with pytest.raises(ValueError, match="plaintext"):
        Client("trainer.example:7717", credentials=Credentials(access_token=token))
    assert token not in repr(Credentials(access_token=token))


@pytest.mark.parametrize("version", ["tls1", "tls1_1"])
def test_old_versions_of_tls_are_refused(house, version):
    daemon, _, _ = house
    tried = subprocess.run(
        [
            *("openssl", "s_client", "-connect", daemon.tcp, f"-{version}"),
            *("-cipher", "DEFAULT@SECLEVEL=0", "-alpn", "h2"),
        ],
        input=b"",
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert b"Cipher is (NONE)" in tried.stdout
