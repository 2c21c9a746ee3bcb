"""The flagship through a real daemon: what it is told, what it answers, and checkpoints."""

from __future__ import annotations

import copy
import io
import subprocess

import pytest
from e2e_daemon import ROOT, binary

torch = pytest.importorskip("torch")

from mnemosyne_client import (  # noqa: E402
    AdamMoments,
    Client,
    InvalidRequestError,
    adam_moments,
    put_adam_moments,
)
from mnemosyne_client.torch import RemoteOptimizer  # noqa: E402

INPUTS = torch.linspace(-1, 1, 320).reshape(64, 5)
TARGETS = (3 * INPUTS).sin().sum(dim=1, keepdim=True)


@pytest.fixture
def daemon(own_daemon):
    """A daemon with the models of the repository."""
    return own_daemon("--models", str(ROOT / "models"))


def make_model(seed: int = 0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))


def train(model, optimizer, steps: int, tell: bool = True) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(INPUTS), TARGETS)
        loss.backward()
        if tell:
            optimizer.tell_loss(loss)
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("tell", [True, False])
def test_trains_with_its_defaults(daemon, tell):
    model = make_model()
    optimizer = RemoteOptimizer(model.named_parameters(), daemon.tcp, "mnemosyne", model=model)
    first = train(model, optimizer, 1, tell)

    last = train(model, optimizer, 300, tell)

    assert last < 0.02 * first
    with Client(daemon.tcp) as client:
        details = client.get_session(optimizer.session.name)
    assert [(p.role, p.fan_in, p.fan_out) for p in details.spec.parameters] == [
        ("weight", 5, 64),
        ("bias", 1, 1),
        ("weight", 64, 1),
        ("bias", 1, 1),
    ]
    assert details.spec.groups[0].hyperparameters["guard"] == 1
    assert details.HasField("guard") and details.guard.trips == 0
    optimizer.close()


def test_a_broken_loss_trips_its_guard(daemon):
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), daemon.tcp, "mnemosyne")
    train(model, optimizer, 3)
    optimizer.tell_loss(float("nan"))
    train(model, optimizer, 1, tell=False)

    with Client(daemon.tcp) as client:
        guard = client.get_session(optimizer.session.name).guard
    assert (guard.level, guard.trips) == (1, 1)
    optimizer.close()


def test_goes_on_from_its_checkpoint_with_the_same_bits(daemon):
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), daemon.tcp, "mnemosyne")
    train(model, optimizer, 7)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, 6)
    expected = copy.deepcopy(model)
    optimizer.close()

    file.seek(0)
    saved = torch.load(file)
    model = make_model(seed=1)
    resumed = RemoteOptimizer(model.parameters(), daemon.tcp, "mnemosyne")
    model.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(model, resumed, 6)

    for p, q in zip(model.parameters(), expected.parameters()):
        assert torch.equal(p, q)
    resumed.close()


def test_a_state_of_16_bits_trains_and_goes_on_with_the_same_bits(daemon):
    model = make_model()
    options = {"state_precision": "half"}
    optimizer = RemoteOptimizer(model.parameters(), daemon.tcp, "mnemosyne", **options)
    first = train(model, optimizer, 1)
    assert train(model, optimizer, 300) < 0.03 * first
    saved = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train(model, optimizer, 5)
    optimizer.close()

    resumed_model = make_model(seed=1)
    resumed = RemoteOptimizer(resumed_model.parameters(), daemon.tcp, "mnemosyne", **options)
    resumed_model.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(resumed_model, resumed, 5)

    for p, q in zip(resumed_model.parameters(), model.parameters()):
        assert torch.equal(p, q)
    resumed.close()


def test_an_optimizer_without_a_state_of_16_bits_refuses_it(daemon):
    with pytest.raises(InvalidRequestError, match="adamw keeps no state of 16 bits"):
        RemoteOptimizer(make_model().parameters(), daemon.tcp, "adamw", state_precision="half")


def test_adams_moments_go_in_and_come_out(daemon):
    model, twin = make_model(), make_model()
    adam = torch.optim.Adam(twin.parameters(), lr=1e-3)
    optimizer = RemoteOptimizer(model.parameters(), daemon.tcp, "mnemosyne")
    for _ in range(20):
        adam.zero_grad()
        torch.nn.functional.mse_loss(twin(INPUTS), TARGETS).backward()
        for p, q in zip(model.parameters(), twin.parameters()):
            p.grad = q.grad.clone()
        optimizer.step()
        adam.step()
    entries = adam.state_dict()["state"]

    def assert_adams(state):
        for number, moments in enumerate(adam_moments(state)):
            assert moments.step == 20
            root = torch.from_numpy(moments.exp_avg_sq).sqrt().norm()
            apart = torch.from_numpy(moments.exp_avg) - entries[number]["exp_avg"]
            assert apart.norm() <= 1e-6 * root * 30  # s is far below g^2 after 20 steps.
            squares = torch.from_numpy(moments.exp_avg_sq)
            expected = entries[number]["exp_avg_sq"]
            assert (squares - expected).norm() <= 1e-6 * expected.norm()

    with Client(daemon.tcp) as client:
        assert_adams(client.export_state(optimizer.session))
        other = RemoteOptimizer(make_model().parameters(), daemon.tcp, "mnemosyne")
        state = client.export_state(other.session)
        put_adam_moments(
            state,
            [
                AdamMoments(20, entries[i]["exp_avg"].numpy(), entries[i]["exp_avg_sq"].numpy())
                for i in range(4)
            ],
        )
        client.import_state(other.session, state)
        assert_adams(client.export_state(other.session))
    optimizer.close()


def test_overlap_tells_the_loss_and_the_scales(daemon):
    models, losses = [], []
    for overlap in (False, True):
        model = make_model()
        optimizer = RemoteOptimizer(
            model.parameters(), daemon.tcp, "mnemosyne", overlap_backward=overlap
        )
        losses.append(train(model, optimizer, 20))
        models.append(model)
        optimizer.close()

    assert losses[0] == losses[1]
    for p, q in zip(models[0].parameters(), models[1].parameters()):
        assert torch.equal(p, q)


def test_is_listed(daemon):
    command = [
        binary().with_name("mnemosynectl"),
        "--address",
        daemon.tcp,
        "optimizers",
        "mnemosyne",
    ]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    for word in ("mnemosyne", "learning_rate", "guard_cap", "learned_decay"):
        assert word in listed
