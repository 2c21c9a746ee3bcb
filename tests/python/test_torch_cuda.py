"""RemoteOptimizer with parameters on a GPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

from mnemosyne_client.torch import RemoteOptimizer  # noqa: E402

INPUTS = torch.linspace(-1, 1, 320).reshape(64, 5).cuda()
TARGETS = (2 * INPUTS).sin().sum(dim=1, keepdim=True)


def make_model(data_type=torch.float32):
    torch.manual_seed(0)
    layers = torch.nn.Linear(5, 300), torch.nn.Tanh(), torch.nn.Linear(300, 1)
    return torch.nn.Sequential(*layers).cuda().to(data_type)


def make_scaler(**options):
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cuda", **options)
    return torch.cuda.amp.GradScaler(**options)


def train(model, optimizer, steps: int):
    for _ in range(steps):
        optimizer.zero_grad()
        inputs = INPUTS.to(next(model.parameters()).dtype)
        torch.nn.functional.mse_loss(model(inputs).float(), TARGETS).backward()
        optimizer.step()


@pytest.mark.parametrize("overlap", [False, True])
def test_follows_adamw_of_torch(client, overlap):
    remote, local = make_model(), make_model()
    optimizer = RemoteOptimizer(
        remote.named_parameters(), client, lr=3e-3, overlap_backward=overlap
    )
    train(remote, optimizer, 30)
    train(local, torch.optim.AdamW(local.parameters(), lr=3e-3), 30)

    for p, q in zip(remote.parameters(), local.parameters()):
        assert p.is_cuda
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


def test_overlap_gives_the_same_bits(client):
    models = []
    for overlap in (False, True):
        model = make_model()
        train(model, RemoteOptimizer(model.parameters(), client, overlap_backward=overlap), 10)
        models.append(model)

    for p, q in zip(*(model.parameters() for model in models)):
        assert torch.equal(p, q)


@pytest.mark.parametrize("data_type", [torch.bfloat16, torch.float16])
def test_goes_on_from_a_checkpoint_with_masters_on_the_gpu(client, data_type):
    model = make_model(data_type)
    optimizer = RemoteOptimizer(model.parameters(), client, lr=1e-3)
    train(model, optimizer, 5)
    saved = optimizer.state_dict()
    values = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, optimizer, 5)
    again = make_model(data_type)
    again.load_state_dict(values)
    resumed = RemoteOptimizer(again.parameters(), client)
    resumed.load_state_dict(saved)
    train(again, resumed, 5)

    assert saved["state"][0]["master"].dtype == torch.float32
    for p, q in zip(model.parameters(), again.parameters()):
        assert torch.equal(p, q)


def test_autocast_and_a_grad_scaler(daemon, client):
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), client, lr=1e-2)
    scaler = make_scaler(init_scale=2.0**40)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = torch.nn.functional.mse_loss(model(INPUTS), TARGETS)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())

    assert losses[-1] < losses[0] / 2
    assert 0 < daemon.sessions["sessions/1"].proto.last_step < 60


def test_a_grad_scaler_is_refused_with_overlap(client):
    model = make_model()
    optimizer = RemoteOptimizer(model.parameters(), client, overlap_backward=True)
    scaler = make_scaler()
    scaler.scale(torch.nn.functional.mse_loss(model(INPUTS), TARGETS)).backward()

    with pytest.raises(RuntimeError, match="GradScaler"):
        scaler.step(optimizer)
