"""Learned optimizers from folders of weights: sessions, versions, reloads."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from e2e_daemon import ROOT, binary, wait_until

from mnemosyne_client import Client, messages
from mnemosyne_client.errors import InvalidRequestError

MODELS = ROOT / "models"
KINDS = ("lstm", "rnnprop", "mnemosyne-coordinate")
FILE = "weights.safetensors"


def shipped(kind: str) -> Path:
    """Returns the newest weights of a kind in the repository."""
    return sorted((MODELS / kind).glob(f"*/{FILE}"))[-1]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_variant(source: Path, target: Path, factor: float) -> None:
    """Writes the weights of `source` with another output scale."""
    data = source.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    config = json.loads(header["__metadata__"]["config"])
    config["output_scale"] *= factor
    header["__metadata__"]["config"] = json.dumps(config)
    text = json.dumps(header).encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".draft")
    draft.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    draft.replace(target)


@pytest.fixture
def folder(tmp_path):
    """A folder of models with version 1 of lstm."""
    target = tmp_path / "models" / "lstm" / "1" / FILE
    target.parent.mkdir(parents=True)
    shutil.copy(shipped("lstm"), target)
    return tmp_path / "models"


def names(client: Client) -> list[tuple[str, str]]:
    return [(model.name, model.version) for model in client.list_models()]


def make_session(client: Client, **options):
    parameters = [messages.ParameterSpec(name="p", shape=[40])]
    return client.create_session("lstm", parameters, **options)


def step(client: Client, session, number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    result, _ = client.step(session, number, [rng.normal(size=40).astype(np.float32)])
    return result.updates[0].values


def two_class_data():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(256, 8)).astype(np.float32)
    labels = (np.tanh(inputs[:, :2]).sum(1) + 0.3 * inputs[:, 2] > 0).astype(np.float32)
    return inputs, labels


def loss_and_gradients(weights, inputs, labels):
    """Cross entropy of a net with one hidden layer, and its gradients."""
    w1, b1, w2, b2 = weights
    hidden = np.tanh(inputs @ w1 + b1)
    logits = hidden @ w2 + b2
    probability = 1 / (1 + np.exp(-logits))
    loss = float(np.mean(np.logaddexp(0, logits) - labels * logits))
    error = (probability - labels) / len(labels)
    back = np.outer(error, w2) * (1 - hidden**2)
    gradients = [inputs.T @ back, back.sum(0), hidden.T @ error, np.asarray(error.sum())]
    return loss, [gradient.astype(np.float32) for gradient in gradients]


@pytest.mark.parametrize("kind", KINDS)
def test_trains_a_net(client, kind):
    rng = np.random.default_rng(1)
    weights = [
        rng.normal(size=(8, 16)).astype(np.float32) / 3,
        np.zeros(16, np.float32),
        rng.normal(size=16).astype(np.float32) / 4,
        np.zeros((), np.float32),
    ]
    inputs, labels = two_class_data()
    parameters = [messages.ParameterSpec(name=str(i), shape=w.shape) for i, w in enumerate(weights)]
    session = client.create_session(kind, parameters)
    first, _ = loss_and_gradients(weights, inputs, labels)
    with client.open_stream(session) as stream:
        for _ in range(150):
            _, gradients = loss_and_gradients(weights, inputs, labels)
            result = stream.step(gradients)
            for weight, update in zip(weights, result.updates):
                update.apply_to(weight)
    last, _ = loss_and_gradients(weights, inputs, labels)
    client.delete_session(session)

    assert last < 0.8 * first


@pytest.mark.parametrize("kind", KINDS)
def test_trains_a_pytorch_net(tcp_client, kind):
    torch = pytest.importorskip("torch")
    from mnemosyne_client.torch import RemoteOptimizer

    torch.manual_seed(0)
    inputs, labels = (torch.from_numpy(array) for array in two_class_data())
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimizer = RemoteOptimizer(model.parameters(), tcp_client, kind)
    assert optimizer.defaults["lr"] == 1
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(inputs)[:, 0], labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    optimizer.close()

    assert losses[-1] < 0.8 * losses[0]


def test_a_session_tells_the_hash_of_its_weights(tcp_client):
    for kind in KINDS:
        model = [m for m in tcp_client.list_models() if m.name == kind][-1]
        session = tcp_client.create_session(kind, [messages.ParameterSpec(name="p", shape=[3])])
        spec = tcp_client.get_session(session.name).spec

        assert (
            spec.weights_hash == model.weights_hash == sha256(MODELS / kind / model.version / FILE)
        )
        assert spec.optimizer_version == model.version
        tcp_client.delete_session(session)


def test_a_resent_step_has_the_same_bits(tcp_client):
    for kind in KINDS:
        session = tcp_client.create_session(kind, [messages.ParameterSpec(name="p", shape=[40])])
        step(tcp_client, session, 1)
        first = step(tcp_client, session, 2)

        assert np.array_equal(step(tcp_client, session, 2), first)
        tcp_client.delete_session(session)


def test_a_state_goes_to_another_session_of_the_same_weights(tcp_client):
    for kind in KINDS:
        parameters = [messages.ParameterSpec(name="p", shape=[40])]
        session = tcp_client.create_session(kind, parameters)
        step(tcp_client, session, 1)
        state = tcp_client.export_state(session)
        expected = step(tcp_client, session, 2)
        other = tcp_client.create_session(kind, parameters)
        tcp_client.import_state(other, state)

        assert np.array_equal(step(tcp_client, other, 2), expected)


def test_new_versions_come_without_a_restart(own_daemon, folder):
    daemon = own_daemon("--models", str(folder))
    with Client(daemon.tcp) as client:
        assert names(client) == [("lstm", "1")]
        old = make_session(client)
        old_update = step(client, old, 1)

        write_variant(folder / "lstm" / "1" / FILE, folder / "lstm" / "2" / FILE, 2.0)
        reload = client.reload_models()

        assert [(m.name, m.version) for m in reload.loaded] == [("lstm", "2")]
        assert names(client) == [("lstm", "1"), ("lstm", "2")]
        new = make_session(client)
        assert client.get_session(new.name).spec.optimizer_version == "2"
        assert np.allclose(step(client, new, 1), 2 * old_update)
        pinned = make_session(client, weights_hash=sha256(folder / "lstm" / "1" / FILE))
        assert client.get_session(pinned.name).spec.optimizer_version == "1"


def test_a_retired_version_lives_until_its_session_ends(own_daemon, folder):
    daemon = own_daemon("--models", str(folder))
    with Client(daemon.tcp) as client:
        session = make_session(client)
        twin = make_session(client)
        step(client, session, 1)
        step(client, twin, 1)
        shutil.rmtree(folder / "lstm")
        reload = client.reload_models()

        assert [(m.name, m.version) for m in reload.retired] == [("lstm", "1")]
        assert names(client) == []
        with pytest.raises(InvalidRequestError, match="unknown optimizer"):
            make_session(client)
        client.delete_session(twin)
        step(client, session, 2)
        client.update_session(session, hyperparameters={"learning_rate": 0.5})
        step(client, session, 3)


def test_a_signal_reloads(own_daemon, folder):
    daemon = own_daemon("--models", str(folder))
    with Client(daemon.tcp) as client:
        write_variant(folder / "lstm" / "1" / FILE, folder / "lstm" / "2" / FILE, 2.0)
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(names(client)) == 2, 60)
    assert daemon.stop() == 0
    assert "reloading models" in daemon.log
    assert "model loaded model=lstm version=2" in daemon.log


def test_a_broken_file_takes_nothing_away(own_daemon, folder):
    daemon = own_daemon("--models", str(folder))
    with Client(daemon.tcp) as client:
        session = make_session(client)
        step(client, session, 1)
        good = (folder / "lstm" / "1" / FILE).read_bytes()
        (folder / "lstm" / "1" / FILE).write_bytes(good[:1000])
        bad = folder / "lstm" / "2" / FILE
        bad.parent.mkdir()
        bad.write_bytes(b"\xff" * 100)
        reload = client.reload_models()

        assert names(client) == [("lstm", "1")]
        assert [refused.version for refused in reload.refused] == ["1", "2"]
        step(client, session, 2)
        make_session(client)
    assert daemon.stop() == 0
    assert daemon.log.count("model refused") == 2


def test_ctl_lists_and_reloads(own_daemon, folder):
    daemon = own_daemon("--models", str(folder))
    program = binary().with_name("mnemosynectl")

    def ctl(*arguments: str) -> str:
        command = [program, "--address", daemon.tcp, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert sha256(folder / "lstm" / "1" / FILE) in ctl("models")
    assert ctl("reload") == "nothing changed\n"
    write_variant(folder / "lstm" / "1" / FILE, folder / "lstm" / "2" / FILE, 2.0)
    assert ctl("reload").startswith("loaded lstm 2 ")


def test_without_models_there_are_the_classic_optimizers(own_daemon):
    daemon = own_daemon("--models", "none")
    with Client(daemon.tcp) as client:
        assert names(client) == []
        assert "adamw" in [optimizer.name for optimizer in client.list_optimizers()]


def test_a_folder_that_is_not_there_is_refused():
    refused = subprocess.run(
        [binary(), "--listen", "127.0.0.1:0", "--models", "/nowhere"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert "--models /nowhere" in refused.stderr
