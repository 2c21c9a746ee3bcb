"""Gradients that leave during the backward pass."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from mnemosyne_client.torch import RemoteOptimizer  # noqa: E402

INPUTS = torch.linspace(-1, 1, 120).reshape(20, 6)
TARGETS = INPUTS.sum(dim=1, keepdim=True).tanh()


def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1))


def backward(model):
    torch.nn.functional.mse_loss(model(INPUTS), TARGETS).backward()


def train(model, optimizer, steps: int):
    for _ in range(steps):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()


@pytest.fixture
def plain(client):
    """A model after six steps without overlap."""
    model = make_model()
    train(model, RemoteOptimizer(model.parameters(), client, "adam", weight_decay=0.1), 6)
    return model


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def optimizer(model, client):
    return RemoteOptimizer(
        model.parameters(), client, "adam", weight_decay=0.1, overlap_backward=True
    )


def assert_same_bits(model, other):
    for p, q in zip(model.parameters(), other.parameters()):
        assert torch.equal(p, q)


def test_gives_the_same_bits(model, optimizer, plain):
    train(model, optimizer, 6)

    assert_same_bits(model, plain)


def test_gradients_leave_before_the_step(model, optimizer, monkeypatch):
    train(model, optimizer, 1)
    sent = []
    stream = optimizer._lease.stream
    original = stream.begin_early

    def begin_early(*args):
        sent.append(original(*args))
        return sent[-1]

    monkeypatch.setattr(stream, "begin_early", begin_early)
    optimizer.zero_grad()
    backward(model)

    (draft,) = sent
    assert all(draft.has(number) for number in range(4))
    optimizer.step()


@pytest.mark.parametrize("fault", ["lose_answer", "break_step"])
def test_a_broken_step_is_sent_whole(daemon, model, optimizer, plain, fault):
    setattr(daemon, fault, {2, 5})

    train(model, optimizer, 6)

    assert_same_bits(model, plain)


def test_a_learning_rate_that_changes_late_begins_the_step_anew(daemon, model, optimizer):
    train(model, optimizer, 1)
    optimizer.zero_grad()
    backward(model)
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()

    name = optimizer.session.name
    assert [list(b.learning_rates) for b in daemon.sessions[name].begins] == [[], [0.5]]


def test_a_parameter_without_gradient_begins_the_step_anew(daemon, model, optimizer):
    train(model, optimizer, 1)
    optimizer.zero_grad(set_to_none=True)
    for p in model[2].parameters():
        p.requires_grad_(False)
    backward(model)
    optimizer.step()

    assert daemon.sessions[optimizer.session.name].clocks == [2, 2, 1, 1]


def test_a_pass_that_is_thrown_away_does_no_harm(model, optimizer, plain):
    train(model, optimizer, 3)
    torch.nn.functional.mse_loss(model(INPUTS * 9), TARGETS).backward()
    train(model, optimizer, 3)

    assert_same_bits(model, plain)


def test_accumulated_gradients_are_refused(model, optimizer):
    backward(model)
    backward(model)

    with pytest.raises(RuntimeError, match="accumulated over several passes"):
        optimizer.step()
    train(model, optimizer, 1)


def test_gradients_that_were_changed_are_refused(model, optimizer):
    backward(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)

    with pytest.raises(RuntimeError, match="GradScaler, clipping"):
        optimizer.step()
    train(model, optimizer, 1)


def test_a_scaler_that_hands_itself_over_is_refused(model, optimizer):
    backward(model)
    assert optimizer._step_supports_amp_scaling
    optimizer.grad_scale, optimizer.found_inf = None, torch.zeros(1)  # As GradScaler.step() does.

    with pytest.raises(RuntimeError, match="GradScaler"):
        optimizer.step()
    train(model, optimizer, 1)


def test_a_loss_that_is_told_late_goes_with_the_end(daemon, model, optimizer, monkeypatch):
    train(model, optimizer, 1)
    whole = []
    stream = optimizer._lease.stream
    original = stream._requests
    monkeypatch.setattr(
        stream,
        "_requests",
        lambda request, *rest: whole.append(request.HasField("begin")) or original(request, *rest),
    )
    optimizer.zero_grad()
    backward(model)
    optimizer.tell_loss(0.25)
    optimizer.step()

    assert whole == [False]  # Completed, not begun anew.
    assert [b.loss for b in daemon.sessions[optimizer.session.name].begins] == [0, 0.25]


def test_hooks_do_not_keep_the_optimizer_alive(daemon, client):
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), client, overlap_backward=True)
    train(model, optimizer, 1)
    del optimizer
    import gc

    gc.collect()

    assert not daemon.sessions
    backward(model)
