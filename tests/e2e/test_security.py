"""Who may come in, over a network that nobody trusts: TLS, certificates, access tokens."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

import grpc
import numpy
import pytest
from e2e_daemon import ROOT, binary, wait_until
from hostile import PREFACE, SETTINGS, frame

from mnemosyne_client import Client, Credentials, MnemosyneError, SessionLostError, messages

SECRET_NAME = "planted-parameter-name"
SECRET_LABEL = "planted-label"


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


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
        *("--state-dir", str(tmp_path / "state")),
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
    return Client(daemon.tcp, credentials=credentials[who], on_unavailable="raise", timeout=60)


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


def every_method() -> list[str]:
    """Returns the paths of the methods of all our services, as the protocol's files have them."""
    found = []
    for path in (ROOT / "proto").rglob("*.proto"):
        for service, body in re.findall(
            r"^service (\w+) \{(.*?)^\}", path.read_text(), re.M | re.S
        ):
            names = re.findall(r"^ +rpc (\w+)\(", body, re.M)
            found += [f"/mnemosyne.v1.{service}/{name}" for name in names]
    return found


def test_no_method_answers_a_stranger(house):
    daemon, credentials, _ = house
    methods = every_method()
    assert {"/mnemosyne.v1.OptimizerService/Drain", "/mnemosyne.v1.AttentionService/Attend"} <= {
        *methods
    }
    roots = grpc.ssl_channel_credentials(credentials["nobody"].root_certificates)
    with grpc.secure_channel(daemon.tcp, roots) as channel:
        for method in methods:
            # On the wire all kinds of calls look alike; an empty message is one of any type.
            with pytest.raises(grpc.RpcError) as refused:
                list(channel.stream_stream(method)(iter([b""]), timeout=60))
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED, method


def test_tenants_do_not_see_each_other_and_nothing_leaks(house):
    daemon, _, folder = house
    with connect(house, "vision") as vision, connect(house, "speech") as speech:
        session = make_session(vision)
        vision.step(session, 1, [numpy.ones(4, numpy.float32)])
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
        assert [device.step_count for device in info.devices] == [0]
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


def bad_calls(client, names, tokens):
    """Yields calls of every method with every name and token, and with values that are refused."""
    m, methods = messages, client.methods
    parameter = m.ParameterSpec(name="own", shape=[4])
    bad_specs = [
        m.SessionSpec(),
        m.SessionSpec(optimizer="none", parameters=[parameter]),
        m.SessionSpec(optimizer="sgd", parameters=[parameter, parameter]),
        m.SessionSpec(optimizer="sgd", parameters=[m.ParameterSpec(name="x", shape=[1 << 40] * 3)]),
        m.SessionSpec(optimizer="sgd", parameters=[m.ParameterSpec(name="x", shape=[1 << 38])]),
        m.SessionSpec(optimizer="sgd", parameters=[parameter], hyperparameters={"momentum": -1}),
        m.SessionSpec(optimizer="sgd", parameters=[parameter], weights_hash="0" * 64),
        m.SessionSpec(optimizer="sgd", parameters=[parameter], label="x" * 1000),
        m.SessionSpec(optimizer="sgd", parameters=[parameter], worker_count=7),
    ]
    for number, spec in enumerate(bad_specs):
        request = m.CreateSessionRequest(request_id=f"bad {number}", spec=spec)
        yield lambda r=request: methods.create_session(r, timeout=60)
    yield lambda: methods.create_session(m.CreateSessionRequest(), timeout=60)
    yield lambda: methods.list_sessions(m.ListSessionsRequest(page_token="1.vision"), timeout=60)
    yield lambda: methods.list_sessions(m.ListSessionsRequest(page_token="?"), timeout=60)
    yield lambda: methods.list_sessions(m.ListSessionsRequest(page_size=-1), timeout=60)
    yield lambda: methods.reload_models(m.ReloadModelsRequest(), timeout=60)
    yield lambda: methods.drain(m.DrainRequest(), timeout=60)
    yield lambda: methods.get_server_info(m.GetServerInfoRequest(), timeout=60)
    chunk = m.TensorChunk(parameter=0, payload=numpy.full(4, 31337, numpy.float32).tobytes())
    steps = [
        ([chunk], m.StepBegin(step=1 << 40)),
        ([chunk], m.StepBegin(step=-1)),
        ([chunk, chunk], m.StepBegin(step=1)),
        ([m.TensorChunk(parameter=9, payload=chunk.payload)], m.StepBegin(step=1)),
        ([m.TensorChunk(parameter=0, payload=chunk.payload[:5])], m.StepBegin(step=1)),
        ([m.TensorChunk(parameter=0, payload=chunk.payload, crc32c=1)], m.StepBegin(step=1)),
        ([], m.StepBegin(step=1)),
    ]
    for name in names:
        yield lambda n=name: methods.get_session(m.GetSessionRequest(name=n), timeout=60)
        for token in tokens:
            key = {"name": name, "token": token}
            header = m.StatePart(header=m.StateHeader(format_version=99, step=3))
            data = m.StatePart(data=chunk.payload)
            for unary, request in (
                (methods.update_session, m.UpdateSessionRequest(spec=bad_specs[5], **key)),
                (methods.snapshot_session, m.SnapshotSessionRequest(pin="../..", **key)),
                (methods.snapshot_session, m.SnapshotSessionRequest(step=77, **key)),
                (methods.rewind_session, m.RewindSessionRequest(pin="none", **key)),
            ):
                yield lambda u=unary, r=request: u(r, timeout=60)
            for chunks, begin in steps:
                request = m.StepRequest(session=name, token=token, begin=begin, chunks=chunks)
                yield lambda r=request: methods.step(r, timeout=60)
                opening = m.OptimizeRequest(open=m.OpenStream(session=name, token=token))
                step = m.OptimizeRequest(begin=begin, chunks=chunks, end=m.StepEnd(step=begin.step))
                yield lambda o=opening, s=step: list(methods.optimize(iter([o, s]), timeout=60))
            request = m.ExportStateRequest(**key)
            yield lambda r=request: list(methods.export_state(r, timeout=60))
            for part in (header, data, m.StatePart()):
                request = m.ImportStateRequest(part=part, **key)
                yield lambda r=request: methods.import_state(iter([r]), timeout=60)


def test_no_answer_and_no_log_tells_what_is_not_its_readers(house):
    daemon, credentials, folder = house
    with connect(house, "vision") as vision, connect(house, "speech") as speech:
        planted = make_session(vision)
        with vision.open_stream(planted) as stream:
            stream.step([numpy.full(4, 27182.8, numpy.float32)])
        own = speech.create_session("sgd", [messages.ParameterSpec(name="own", shape=[4])])
        names = ["", "nonsense", own.name, planted.name]
        tokens = ["", "f" * 64, own.token, planted.token]
        said = []
        for call in bad_calls(speech, names, tokens):
            try:
                answer = call()
            except grpc.RpcError as error:
                trailers = {key: value for key, value in error.trailing_metadata() or ()}
                said.append(f"{error.code()} {error.details()} {trailers}")
            else:
                said.append(str(answer))
    refused = [text for text in said if text.startswith("StatusCode.")]
    assert len(refused) > 200
    assert daemon.stop() == 0
    for secret in (
        *(planted.token, SECRET_LABEL, SECRET_NAME, "vision", "27182", "31337"),
        *(credentials["vision"].access_token.rpartition("_")[2], str(folder), "127.0.0.1"),
    ):
        assert not [text for text in said if secret in text.replace("revision", "")], secret
    for text in (daemon.log, (folder / "audit").read_text()):
        for secret in (
            *(planted.token, own.token, SECRET_LABEL, "27182", "31337"),
            credentials["vision"].access_token.rpartition("_")[2],
        ):
            assert secret not in text


def test_a_revoked_token_ends_exports_and_imports(house):
    _, _, folder = house
    with connect(house, "vision") as client:
        elements = 4 << 20
        session = client.create_session(
            "adamw", [messages.ParameterSpec(name="p", shape=[elements])]
        )
        with client.open_stream(session) as stream:
            stream.step([numpy.ones(elements, numpy.float32)])
        request = messages.ExportStateRequest(name=session.name, token=session.token)
        export = client.methods.export_state(request, timeout=60)
        header = next(export).part
        part = messages.ImportStateRequest(name=session.name, token=session.token, part=header)
        sent = threading.Event()
        revoked = threading.Event()

        def parts():
            yield part
            sent.set()
            revoked.wait(60)
            data = messages.StatePart(data=bytes(1 << 16))
            for _ in range(1 << 10):
                yield messages.ImportStateRequest(part=data)
                time.sleep(0.05)

        imported = client.methods.import_state.func.future(
            parts(), timeout=120, **client.methods.import_state.keywords
        )
        assert sent.wait(60)
        (folder / "new").write_text("# nobody\n")
        (folder / "new").rename(folder / "access")

        def gone():
            try:
                client.methods.get_server_info(messages.GetServerInfoRequest(), timeout=60)
            except grpc.RpcError as error:
                return error.code() == grpc.StatusCode.UNAUTHENTICATED
            return False

        wait_until(gone, 60)
        revoked.set()
        ended = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.CANCELLED)
        with pytest.raises(grpc.RpcError) as end:
            imported.result(timeout=60)
        assert end.value.code() in ended
        with pytest.raises(grpc.RpcError) as end:
            list(export)
        assert end.value.code() in ended


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

            wait_until(refused, 60)


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

    wait_until(served, 60)


def first_word(path: str, uid: int) -> bytes:
    """Returns what the daemon sends first to a user who connects to its socket."""
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(60)
        own = os.geteuid()
        os.seteuid(uid)
        try:
            wire.connect(path)
        finally:
            os.seteuid(own)
        try:
            wire.sendall(PREFACE + frame(SETTINGS, 0, 0))
            return wire.recv(1)
        except ConnectionError:
            return b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes other users")
def test_the_socket_lets_in_the_users_of_the_access_file_and_tells_others_nothing(
    tmp_path, own_daemon
):
    known, unknown = 65_531, 65_532
    (tmp_path / "access").write_text(f"user tenant=vision uid={known}\n")
    audit = tmp_path / "audit"
    daemon = own_daemon("--access", str(tmp_path / "access"), "--audit-log", str(audit))
    path = Path(daemon.unix.removeprefix("unix:"))
    path.parent.chmod(0o711)
    assert first_word(str(path), known)
    assert first_word(str(path), unknown) == b""
    refused = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(line["peer"], line["action"], line["outcome"]) for line in refused] == [
        (f"uid:{unknown}", "connect", "USER_NOT_ADMITTED")
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes other users")
@pytest.mark.parametrize("access", ["", "token", "user"])
def test_the_sockets_file_is_open_to_others_only_where_users_are_named(
    tmp_path, own_daemon, access
):
    lines = {"token": make_token("vision")[1], "user": "user tenant=vision uid=65531"}
    flags = []
    if access:
        (tmp_path / "access").write_text(lines[access] + "\n")
        flags = ["--access", str(tmp_path / "access")]
    path = Path(own_daemon(*flags).unix.removeprefix("unix:"))
    path.parent.chmod(0o711)
    if access == "user":
        assert path.stat().st_mode & 0o777 == 0o666
    else:
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(PermissionError):
            first_word(str(path), 65_531)


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
        timeout=60,
    )
    assert b"Cipher is (NONE)" in tried.stdout
