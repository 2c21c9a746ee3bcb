"""RemoteOptimizer against the fake daemon."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fake_daemon import FakeDaemon  # noqa: E402

from mnemosyne_client import (  # noqa: E402
    Client,
    InvalidRequestError,
    SessionLostError,
    messages,
)
from mnemosyne_client.torch import RemoteOptimizer  # noqa: E402

INPUTS = torch.from_numpy(np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32))
TARGETS = INPUTS.sum(dim=1, keepdim=True).tanh()


def make_model(seed: int = 0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1))


def train(model, optimizer, steps: int, scheduler=None):
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(INPUTS), TARGETS).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def assert_close(model, other):
    for a, b in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def assert_same_bits(model, other):
    for a, b in zip(model.parameters(), other.parameters()):
        assert torch.equal(a, b)


def test_follows_adamw_of_torch(client):
    remote, local = make_model(), make_model()

    train(remote, RemoteOptimizer(remote.parameters(), client, lr=0.01, weight_decay=0.1), 30)
    train(local, torch.optim.AdamW(local.parameters(), lr=0.01, weight_decay=0.1), 30)

    assert_close(remote, local)


def test_adds_weight_decay_of_adam_to_the_gradient(client):
    remote, local = make_model(), make_model()

    train(remote, RemoteOptimizer(remote.parameters(), client, "adam", weight_decay=0.1), 10)
    train(local, torch.optim.Adam(local.parameters(), weight_decay=0.1), 10)

    assert_close(remote, local)


def test_refuses_coupled_weight_decay_with_the_daemons_clipping(client):
    with pytest.raises(ValueError, match="would clip it"):
        RemoteOptimizer(
            make_model().parameters(), client, "adam", weight_decay=0.1, clip_global_norm=1.0
        )


def test_learning_rates_of_a_scheduler_travel_with_each_step(daemon, client):
    remote, local = make_model(), make_model()
    optimizers = (
        RemoteOptimizer(remote.parameters(), client, lr=0.02),
        torch.optim.AdamW(local.parameters(), lr=0.02),
    )
    for model, optimizer in zip((remote, local), optimizers):
        train(model, optimizer, 12, torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.3))

    assert_close(remote, local)
    rates = [list(begin.learning_rates) for begin in daemon.sessions["sessions/1"].begins]
    assert rates[:4] == [[]] * 4 and rates[4:8] == [[0.02 * 0.3]] * 4


def test_other_changed_options_reach_the_daemon_once(daemon, client):
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), client)
    train(model, optimizer, 1)
    optimizer.param_groups[0]["betas"] = (0.8, 0.99)
    train(model, optimizer, 3)

    (update,) = daemon.updates
    assert dict(update.spec.groups[0].hyperparameters) == {"beta1": 0.8, "beta2": 0.99}


def test_groups_have_options_of_their_own(client):
    remote, local = make_model(), make_model()

    def groups(model):
        first, second = model[0], model[2]
        return [
            {"params": first.parameters(), "lr": 0.1},
            {"params": second.parameters(), "weight_decay": 0.5},
        ]

    train(remote, RemoteOptimizer(groups(remote), client, lr=0.01), 10)
    train(local, torch.optim.AdamW(groups(local), lr=0.01), 10)

    assert_close(remote, local)


def test_an_added_group_keeps_the_state_of_the_others(daemon, client):
    remote, local = make_model(), make_model()
    optimizers = (
        RemoteOptimizer(remote[0].parameters(), client, lr=0.01),
        torch.optim.AdamW(local[0].parameters(), lr=0.01),
    )
    for model, optimizer in zip((remote, local), optimizers):
        train(model, optimizer, 5)
        optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.02})
        train(model, optimizer, 5)

    assert_close(remote, local)
    assert list(daemon.sessions) == ["sessions/2"]
    assert daemon.sessions["sessions/2"].clocks == [10, 10, 5, 5]


def test_takes_named_parameters(daemon, client):
    model = make_model()
    optimizer = RemoteOptimizer(model.named_parameters(), client)

    parameters = optimizer.session.details.spec.parameters
    assert [p.name for p in parameters] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [p.role for p in parameters] == ["weight", "bias"] * 2


def test_a_told_loss_goes_with_the_next_step_alone(daemon, client):
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), client)

    for told in (0.75, None):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(INPUTS), TARGETS).backward()
        if told is not None:
            optimizer.tell_loss(torch.tensor(told))
        optimizer.step()

    begins = daemon.sessions["sessions/1"].begins
    assert begins[0].loss == 0.75
    assert not begins[1].HasField("loss")


def test_a_closure_is_evaluated_with_gradients(daemon, client):
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), client)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(INPUTS), TARGETS)
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)

    assert loss.item() == pytest.approx(daemon.sessions["sessions/1"].begins[0].loss)


def test_parameters_without_gradient_stay_out_of_the_step(daemon, client):
    model = make_model()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = RemoteOptimizer(model.parameters(), client, weight_decay=0.5)
    train(model, optimizer, 2)
    model.zero_grad(set_to_none=True)
    optimizer.step()

    assert torch.equal(model[0].weight, before)
    assert daemon.sessions["sessions/1"].clocks == [0, 2, 2, 2]


def test_state_dict_has_the_layout_of_torch_and_no_token(client):
    model, local = make_model(), make_model()
    optimizer = RemoteOptimizer(model.parameters(), client)
    reference = torch.optim.AdamW(local.parameters())
    train(model, optimizer, 3)
    train(local, reference, 3)

    saved, expected = optimizer.state_dict(), reference.state_dict()

    assert saved["state"].keys() == expected["state"].keys()
    for index, entry in expected["state"].items():
        assert saved["state"][index].keys() == entry.keys()
        assert float(saved["state"][index]["step"]) == float(entry["step"]) == 3
        torch.testing.assert_close(saved["state"][index]["exp_avg"], entry["exp_avg"])
    assert saved["param_groups"][0]["params"] == expected["param_groups"][0]["params"]
    assert optimizer.session.token not in str(saved)
    assert not optimizer.state


@pytest.mark.parametrize("elsewhere", [False, True])
def test_goes_on_from_its_own_checkpoint(client, elsewhere):
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), client, lr=0.01)
    train(model, optimizer, 4)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    train(model, optimizer, 5)

    resumed = make_model(seed=1)
    other = FakeDaemon() if elsewhere else None
    address = other.address if other else client
    again = RemoteOptimizer(resumed.parameters(), address, lr=0.5)
    train(resumed, again, 2)
    file.seek(0)
    saved_model, saved_optimizer = torch.load(file)
    resumed.load_state_dict(saved_model)
    again.load_state_dict(saved_optimizer)
    train(resumed, again, 5)

    assert_same_bits(resumed, model)
    assert again.param_groups[0]["lr"] == 0.01
    again.close()
    if other:
        other.close()


def test_goes_on_after_the_daemon_lost_the_session(daemon, client):
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), client)
    train(model, optimizer, 2)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, 3)
    expected = copy.deepcopy(model)
    daemon.sessions.clear()
    daemon.break_step = {6}

    with pytest.raises(SessionLostError):
        train(model, optimizer, 1)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    train(model, optimizer, 3)

    assert_same_bits(model, expected)


def test_loads_the_checkpoint_of_a_local_optimizer(client):
    remote, local = make_model(), make_model()
    reference = torch.optim.AdamW(local.parameters(), lr=0.01)
    train(local, reference, 5)
    remote.load_state_dict(local.state_dict())
    optimizer = RemoteOptimizer(remote.parameters(), client)
    optimizer.load_state_dict(reference.state_dict())
    train(remote, optimizer, 5)
    train(local, reference, 5)

    assert_close(remote, local)


def test_refuses_a_state_of_another_optimizer(client):
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), client)
    train(model, optimizer, 1)
    saved = optimizer.state_dict()
    other = RemoteOptimizer(make_model().parameters(), client, "adam")

    with pytest.raises(ValueError, match="is of adamw"):
        other.load_state_dict(saved)


def test_16_bit_parameters_have_a_float32_master(client):
    model = make_model().bfloat16()
    reference = make_model().bfloat16().float()
    optimizer = RemoteOptimizer(model.parameters(), client, lr=1e-3)
    local = torch.optim.AdamW(reference.parameters(), lr=1e-3)
    for step in range(40):
        torch.manual_seed(step)
        for p, q in zip(model.parameters(), reference.parameters()):
            p.grad = torch.randn_like(p) + 1
            q.grad = p.grad.float()
        optimizer.step()
        local.step()

    for p, q in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(p.float(), q.bfloat16().float(), rtol=1e-2, atol=1e-4)
    assert optimizer.state_dict()["state"][0]["master"].dtype == torch.float32


def test_a_master_follows_a_parameter_that_was_set(client):
    model = make_model().bfloat16()
    optimizer = RemoteOptimizer(model.parameters(), client, lr=1e-3, weight_decay=0)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    with torch.no_grad():
        model[0].bias.fill_(64.0)
    optimizer.step()

    torch.testing.assert_close(model[0].bias.float(), torch.full((9,), 64.0))


def test_float64_parameters_are_updated_in_float64(client):
    model = make_model().double()
    optimizer = RemoteOptimizer(model.parameters(), client, lr=1e-9, weight_decay=0)
    before = model[0].bias.detach().clone()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()

    torch.testing.assert_close(before - model[0].bias, torch.full_like(before, 1e-9))


def test_a_refused_step_changes_nothing(client):
    model = make_model()
    optimizer = RemoteOptimizer(model.named_parameters(), client)
    before = copy.deepcopy(model)
    for p in model.parameters():
        p.grad = torch.full_like(p, float("inf"))

    with pytest.raises(InvalidRequestError, match="NON_FINITE"):
        optimizer.step()

    assert_same_bits(model, before)
    train(model, optimizer, 1)


def test_data_loaders_that_fork_leave_the_stream_alone(daemon, client):
    dataset = torch.utils.data.TensorDataset(INPUTS, TARGETS)
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), client)
    for _ in range(2):
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=8, num_workers=2, multiprocessing_context="fork"
        )
        for inputs, targets in loader:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()

    assert daemon.sessions["sessions/1"].proto.last_step == 8
    assert daemon.opens == 1


def test_options_of_torch_that_choose_an_implementation_are_taken(client):
    RemoteOptimizer(make_model().parameters(), client, foreach=False, fused=None, amsgrad=False)
    with pytest.raises(ValueError, match="amsgrad"):
        RemoteOptimizer(make_model().parameters(), client, amsgrad=True)
    with pytest.raises(TypeError, match="adamw has no option 'learning_rate'; it has betas"):
        RemoteOptimizer(make_model().parameters(), client, learning_rate=0.1)


def test_an_unknown_optimizer_is_refused_with_those_there_are(client):
    with pytest.raises(InvalidRequestError, match=r"no optimizer 'adm'; it has adam") as caught:
        RemoteOptimizer(make_model().parameters(), client, "adm")

    assert caught.value.reason == "UNKNOWN_OPTIMIZER"


def test_its_session_goes_with_it(daemon, client):
    optimizer = RemoteOptimizer(make_model().parameters(), client)
    assert len(daemon.sessions) == 1

    optimizer.close()
    assert not daemon.sessions
    with pytest.raises(RuntimeError, match="closed"):
        _ = optimizer.session

    RemoteOptimizer(make_model().parameters(), client)
    assert not daemon.sessions


def test_its_session_goes_when_the_interpreter_exits(daemon):
    code = (
        "import sys, torch\n"
        "from mnemosyne_client.torch import RemoteOptimizer\n"
        "p = torch.nn.Parameter(torch.ones(3))\n"
        "optimizer = RemoteOptimizer([p], sys.argv[1])\n"
        "p.grad = torch.ones(3)\n"
        "optimizer.step()\n"
        "raise ValueError\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, daemon.address],
        capture_output=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parent,
    )

    assert daemon.opens == 1 and not daemon.sessions


def test_a_named_job_finds_its_session_again(daemon, client):
    model = make_model()
    first = RemoteOptimizer(model.parameters(), client, request_id="job-7")
    train(model, first, 2)
    name = first.session.name
    first.close()

    second = RemoteOptimizer(model.parameters(), client, request_id="job-7")
    train(model, second, 1)

    assert second.session.name == name
    assert daemon.sessions[name].proto.last_step == 3


def test_cannot_be_copied(client):
    optimizer = RemoteOptimizer(make_model().parameters(), client)

    with pytest.raises(TypeError, match="state_dict"):
        pickle.dumps(optimizer)
    with pytest.raises(TypeError, match="state_dict"):
        copy.deepcopy(optimizer)


def test_options_of_the_session_reach_the_daemon(daemon):
    schedule = messages.LearningRateSchedule(
        shape=messages.LearningRateSchedule.SHAPE_COSINE, warmup_steps=5, total_steps=50
    )
    with Client(daemon.address) as client:
        RemoteOptimizer(
            make_model().parameters(),
            client,
            schedule=schedule,
            clip_global_norm=2.0,
            label="a run",
            request_id="kept",
        )

    spec = daemon.sessions["sessions/1"].proto.spec
    assert spec.schedule == schedule and spec.label == "a run"
    assert spec.clipping.global_norm == 2.0 and not spec.clipping.HasField("tensor_norm")


def _scaler():
    if hasattr(torch, "amp") and hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cuda" if torch.cuda.is_available() else "cpu")
    if torch.cuda.is_available():
        return torch.cuda.amp.GradScaler()
    return None


@pytest.mark.skipif(_scaler() is None, reason="this PyTorch has no GradScaler for the CPU")
def test_a_grad_scaler_skips_steps_that_overflow(daemon, client):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model().to(device)
    optimizer = RemoteOptimizer(model.parameters(), client)
    scaler = _scaler()
    for step in range(4):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(INPUTS.to(device)), TARGETS.to(device))
        scaler.scale(loss).backward()
        if step == 1:
            model[0].weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()

    assert daemon.sessions["sessions/1"].proto.last_step == 3
