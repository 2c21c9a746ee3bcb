"""The daemon's optimizers against PyTorch's over 1,000 steps of a real net."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn.datasets")

from digits_net import conv_net, gradients_of, load_digits, train_both  # noqa: E402
from reference_lion import Lion  # noqa: E402

from mnemosyne_client import messages  # noqa: E402
from mnemosyne_client.torch import RemoteOptimizer  # noqa: E402

# Others than the PyTorch of the tests' reference platform may round in another order.
SAME_BITS = torch.__version__.startswith("1.13")


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def assert_equal(remote, local) -> None:
    for p, q in zip(remote, local):
        assert torch.isfinite(p).all()
        if SAME_BITS:
            assert torch.equal(p, q), f"off by up to {(p - q).abs().max():.3g}"
        else:
            assert float((p - q).norm() / q.norm()) <= 1e-4


CASES = {
    "adamw": ("adamw", torch.optim.AdamW, {"lr": 3e-3}),
    "adamw, other values": (
        "adamw",
        torch.optim.AdamW,
        {"lr": 2e-3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3},
    ),
    "adamw, maximize": ("adamw", torch.optim.AdamW, {"lr": 1e-5, "maximize": True}),
    "adam": ("adam", torch.optim.Adam, {"lr": 3e-3}),
    "adam, coupled decay": ("adam", torch.optim.Adam, {"lr": 3e-3, "weight_decay": 1e-2}),
    "sgd": ("sgd", torch.optim.SGD, {"lr": 0.05}),
    "sgd, momentum": ("sgd", torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}),
    "sgd, dampening": ("sgd", torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "dampening": 0.4}),
    "sgd, nesterov": ("sgd", torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True}),
    "sgd, coupled decay": (
        "sgd",
        torch.optim.SGD,
        {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-3},
    ),
    "sgd, maximize": (
        "sgd",
        torch.optim.SGD,
        {"lr": 1e-4, "momentum": 0.5, "weight_decay": 1e-3, "maximize": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_has_the_bits_of_torch(tcp_client, digits, case):
    name, local, options = CASES[case]

    assert_equal(
        *train_both(
            lambda params: RemoteOptimizer(params, tcp_client, name, **options),
            lambda params: local(params, **options),
            digits,
        )
    )


def test_has_the_bits_of_torch_over_either_listener(client, digits):
    assert_equal(
        *train_both(
            lambda params: RemoteOptimizer(params, client),
            lambda params: torch.optim.AdamW(params),
            digits,
            steps=50,
        )
    )


def test_has_the_bits_of_torch_when_gradients_leave_early(tcp_client, digits):
    remote, local = conv_net(), conv_net()
    ours = RemoteOptimizer(
        remote.parameters(), tcp_client, "adam", weight_decay=0.1, overlap_backward=True
    )
    theirs = torch.optim.Adam(local.parameters(), weight_decay=0.1)
    for step in range(200):
        for model, optimizer in ((remote, ours), (local, theirs)):
            gradients_of(model, digits, step)
            optimizer.step()
            optimizer.zero_grad()
    ours.close()

    assert_equal(list(remote.parameters()), list(local.parameters()))


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.01, total_steps=301),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=300),
    ],
)
def test_has_the_bits_of_torch_under_a_scheduler(tcp_client, digits, scheduler):
    assert_equal(
        *train_both(
            lambda params: RemoteOptimizer(params, tcp_client, "adam", lr=0.01),
            lambda params: torch.optim.Adam(params, lr=0.01),
            digits,
            steps=300,
            scheduler_of=scheduler,
        )
    )


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_defaults_are_those_of_torch(tcp_client, name):
    remote = RemoteOptimizer([torch.nn.Parameter(torch.ones(1))], tcp_client, name)
    local_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    # SGD has no default of its own in every version.
    rate = {"lr": remote.defaults["lr"]} if name == "sgd" else {}
    local = local_class[name]([torch.nn.Parameter(torch.ones(1))], **rate)

    assert remote.defaults == {key: local.defaults[key] for key in remote.defaults}


def test_lion_follows_the_formula_of_its_paper(tcp_client, digits):
    options = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.1}

    remote, local = train_both(
        lambda params: RemoteOptimizer(params, tcp_client, "lion", **options),
        lambda params: Lion(params, **options),
        digits,
    )

    for p, q in zip(remote, local):
        assert float((p - q).norm() / q.norm()) <= 1e-6


def test_a_schedule_of_the_daemon_is_that_of_its_formula(tcp_client, digits):
    warmup, total, final = 20, 120, 0.1
    schedule = messages.LearningRateSchedule(
        shape=messages.LearningRateSchedule.SHAPE_COSINE,
        warmup_steps=warmup,
        total_steps=total,
        final_factor=final,
    )

    def factor(done: int) -> float:
        step = done + 1
        if step <= warmup:
            return step / warmup
        x = min(1.0, (step - 1 - warmup) / (total - warmup))
        return final + (1 - final) * (1 + np.cos(np.pi * x)) / 2

    remote, local = conv_net(), conv_net()
    ours = RemoteOptimizer(remote.parameters(), tcp_client, lr=0.01, schedule=schedule)
    theirs = torch.optim.AdamW(local.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(theirs, factor)
    for step in range(140):
        gradients_of(remote, digits, step)
        for p, q in zip(remote.parameters(), local.parameters()):
            q.grad = p.grad.clone()
        for stepper in (ours, theirs, scheduler):
            stepper.step()

    for p, q in zip(remote.parameters(), local.parameters()):
        assert float((p - q).norm() / q.norm()) <= 1e-6


def test_clipping_in_the_daemon_is_that_of_torch(tcp_client, digits):
    remote, local = conv_net(), conv_net()
    ours = RemoteOptimizer(
        remote.parameters(), tcp_client, "sgd", lr=0.1, momentum=0.9, clip_global_norm=0.5
    )
    theirs = torch.optim.SGD(local.parameters(), lr=0.1, momentum=0.9)
    for step in range(100):
        gradients_of(remote, digits, step)
        for p, q in zip(remote.parameters(), local.parameters()):
            q.grad = p.grad.clone()
        torch.nn.utils.clip_grad_norm_(local.parameters(), 0.5)
        ours.step()
        theirs.step()

    for p, q in zip(remote.parameters(), local.parameters()):
        assert float((p - q).norm() / q.norm()) <= 1e-5
