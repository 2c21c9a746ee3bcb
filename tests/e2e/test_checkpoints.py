"""RemoteOptimizer with a real daemon: checkpoints, masters, data loaders."""

from __future__ import annotations

import copy
import gc
import io

import pytest

torch = pytest.importorskip("torch")

from reference_lion import Lion  # noqa: E402

from mnemosyne_client import Client, InvalidRequestError, SessionLostError  # noqa: E402
from mnemosyne_client.torch import RemoteOptimizer  # noqa: E402

OPTIMIZERS = {
    "adamw": {"lr": 0.01},
    "adam": {"lr": 0.01, "weight_decay": 0.1},
    "sgd": {"lr": 0.05, "momentum": 0.9},
    "lion": {"lr": 0.001},
}
INPUTS = torch.linspace(-1, 1, 160).reshape(32, 5)
TARGETS = (3 * INPUTS).sin().sum(dim=1, keepdim=True)


def make_model(seed: int = 0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 31), torch.nn.Tanh(), torch.nn.Linear(31, 1))


def train(model, optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(INPUTS), TARGETS).backward()
        optimizer.step()


def assert_same_bits(model, other) -> None:
    for p, q in zip(model.parameters(), other.parameters()):
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("where", ["same session", "new session", "another daemon"])
def test_goes_on_from_its_checkpoint_with_the_same_bits(client, own_daemon, name, where):
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), client, name, **OPTIMIZERS[name])
    train(model, optimizer, 7)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, 6)
    expected = copy.deepcopy(model)

    if where == "same session":
        resumed = optimizer
    else:
        address = client if where == "new session" else own_daemon().unix
        model = make_model(seed=1)
        resumed = RemoteOptimizer(model.parameters(), address, name, **OPTIMIZERS[name])
        train(model, resumed, 2)
    saved = torch.load(io.BytesIO(file.getvalue()))
    model.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(model, resumed, 6)

    assert_same_bits(model, expected)
    assert optimizer.session.token.encode() not in file.getvalue()
    for each in {optimizer, resumed}:
        each.close()


LOCAL = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "lion": Lion,
}


@pytest.mark.parametrize("name", ["lion", "sgd"])
def test_the_state_of_an_optimizer_that_counts_no_steps_is_that_of_torch(tcp_client, name):
    local, remote = make_model(), make_model()
    for p in (local[2].bias, remote[2].bias):  # One that takes no part has no state.
        p.requires_grad_(False)
    optimizer = LOCAL[name](local.parameters(), **OPTIMIZERS[name])
    other = RemoteOptimizer(remote.parameters(), tcp_client, name, **OPTIMIZERS[name])
    train(local, optimizer, 3)
    train(remote, other, 3)

    saved, expected = other.state_dict()["state"], optimizer.state_dict()["state"]
    assert {i: set(entry) for i, entry in saved.items()} == {
        i: set(entry) for i, entry in expected.items()
    }
    for i, entry in expected.items():
        for slot, values in entry.items():
            torch.testing.assert_close(saved[i][slot], values, rtol=1e-5, atol=1e-7)
    other.close()


@pytest.mark.parametrize("name", LOCAL)
def test_takes_over_from_a_local_optimizer_and_hands_back(tcp_client, name):
    local_class = LOCAL
    options = OPTIMIZERS[name]
    model, reference = make_model(), make_model()
    first = local_class[name](model.parameters(), **options)
    whole = local_class[name](reference.parameters(), **options)
    train(reference, whole, 15)

    train(model, first, 5)
    remote = RemoteOptimizer(model.parameters(), tcp_client, name, **options)
    remote.load_state_dict(first.state_dict())
    train(model, remote, 5)
    last = local_class[name](model.parameters(), **options)
    last.load_state_dict(remote.state_dict())
    train(model, last, 5)
    remote.close()

    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
        if torch.__version__.startswith("1.13"):
            assert torch.equal(p, q)


def test_goes_on_after_the_daemon_was_killed(own_daemon):
    first = own_daemon()
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), first.tcp, wait_seconds=30)
    train(model, optimizer, 3)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, 2)
    expected = copy.deepcopy(model)
    first.kill()
    own_daemon(listen=first.tcp)

    with pytest.raises(SessionLostError):
        train(model, optimizer, 1)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    train(model, optimizer, 2)

    assert_same_bits(model, expected)
    optimizer.close()


def test_an_added_group_continues_like_that_of_torch(tcp_client):
    remote, local = make_model(), make_model()
    optimizers = (
        RemoteOptimizer(remote[0].parameters(), tcp_client, "adam", lr=0.01),
        torch.optim.Adam(local[0].parameters(), lr=0.01),
    )
    for model, optimizer in zip((remote, local), optimizers):
        train(model, optimizer, 5)
        optimizer.add_param_group(
            {"params": model[2].parameters(), "lr": 0.02, "betas": (0.5, 0.9)}
        )
        train(model, optimizer, 5)
    optimizers[0].close()

    for p, q in zip(remote.parameters(), local.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("data_type", [torch.bfloat16, torch.float16])
def test_masters_of_16_bit_parameters_survive_a_checkpoint(tcp_client, data_type):
    def spin(model, optimizer, steps):
        for _ in range(steps):
            for p in model.parameters():
                p.grad = torch.full_like(p, 0.01)
            optimizer.step()

    model = make_model().to(data_type)
    optimizer = RemoteOptimizer(model.parameters(), tcp_client, lr=1e-5)
    spin(model, optimizer, 50)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    spin(model, optimizer, 50)
    resumed = make_model(seed=1).to(data_type)
    resumed.load_state_dict(saved[0])
    again = RemoteOptimizer(resumed.parameters(), tcp_client)
    again.load_state_dict(saved[1])
    spin(resumed, again, 50)

    assert_same_bits(resumed, model)
    for each in (optimizer, again):
        each.close()


def test_data_loaders_that_fork_leave_the_stream_alone(client):
    dataset = torch.utils.data.TensorDataset(INPUTS, TARGETS)
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), client)
    epochs = set()
    for _ in range(2):
        for inputs, targets in torch.utils.data.DataLoader(
            dataset, batch_size=8, num_workers=2, multiprocessing_context="fork"
        ):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            epochs.add(client.get_session(optimizer.session.name).epoch)

    assert client.get_session(optimizer.session.name).last_step == 8
    assert len(epochs) == 1
    optimizer.close()


def test_a_refused_step_changes_neither_end(client):
    model = make_model()
    optimizer = RemoteOptimizer(model.named_parameters(), client)
    train(model, optimizer, 1)
    before = copy.deepcopy(model)
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan"))

    with pytest.raises(InvalidRequestError) as caught:
        optimizer.step()

    assert caught.value.reason == "NON_FINITE" and caught.value.metadata["parameter"] == "0.weight"
    assert_same_bits(model, before)
    assert client.get_session(optimizer.session.name).last_step == 1
    optimizer.close()


def test_errors_of_the_daemon_reach_the_constructor(client):
    with pytest.raises(InvalidRequestError, match="learning_rate"):
        RemoteOptimizer(make_model().parameters(), client, lr=-1.0)
    with pytest.raises(InvalidRequestError):
        RemoteOptimizer([torch.nn.Parameter(torch.ones(0, 3))], client)


def test_sessions_go_with_their_optimizers(own_daemon):
    with Client(own_daemon().unix) as client:
        for _ in range(3):
            model = make_model()
            optimizer = RemoteOptimizer(model.parameters(), client)
            train(model, optimizer, 1)
        del optimizer
        gc.collect()
        assert not list(client.list_sessions())
