"""FLT attention for PyTorch, over the compiled kernels, on the CPU and on a GPU."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "build/dev/lib/libmnemosyne_flt.so"
if "MNEMOSYNE_FLT_LIBRARY" not in os.environ:
    if not LIBRARY.exists():
        pytest.skip("the target mnemosyne_flt is not built", allow_module_level=True)
    os.environ["MNEMOSYNE_FLT_LIBRARY"] = str(LIBRARY)

from mnemosyne_client import InvalidRequestError  # noqa: E402
from mnemosyne_client.flt import (  # noqa: E402
    FLTAttention,
    FltSpec,
    Rpe,
    flt_attention,
    initial_state,
)

RPE = Rpe("gaussian_mixture", waves=6, modes=2, frequency_scale=0.3, norm_max=0.0)


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    return request.param


def tensors(batch=2, heads=2, length=20, dim=8, width=6, dtype=torch.float32, seed=0, device="cpu"):
    torch.manual_seed(seed)
    q, k = (torch.randn(batch, heads, length, dim) for _ in range(2))
    v = torch.randn(batch, heads, length, width)
    return [x.to(device, dtype) for x in (q, k, v)]


def distance(actual, expected):
    """The root of the mean square of the difference, over that of what is expected."""
    actual, expected = actual.cpu().double(), expected.cpu().double()
    return float((actual - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def waves_of(spec: FltSpec, parameters, base):
    """The waves of a mixture of Gaussians in float64, with gradients: [heads, waves]."""
    modes, scale = spec.rpe.modes, spec.rpe.frequency_scale
    xi = scale * base.double()[:, 0]
    weights, centers, log_variances = parameters.double().split(modes, dim=1)
    density = torch.exp(-0.5 * (xi / scale) ** 2) / (2 * torch.pi) ** 0.5 / scale
    bumps = sum(
        torch.exp(
            -((s * xi[None, None] - centers[..., None]) ** 2) / log_variances.exp()[..., None]
        )
        for s in (1, -1)
    )
    return xi, (weights[..., None] * bumps).sum(1) * 0.5 / (len(xi) * density)


def plainly(q, k, v, spec: FltSpec, parameters, projection, base, causal):
    """FAVOR+ with a mixture's waves appended, over all pairs, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    length, dim = q.shape[2:]
    xi, real = waves_of(spec, parameters, base)
    angle = 2 * torch.pi * torch.arange(length, device=q.device)[:, None] * xi
    size = torch.sqrt(real * real + 1e-12)
    root = size.sqrt()[:, None]
    query = torch.cat([root * angle.cos(), root * angle.sin()], -1)
    key = torch.cat([angle.cos() * real[:, None] / root, angle.sin() * real[:, None] / root], -1)

    def features(x, waves):
        x = torch.cat([x * dim**-0.25, waves.expand(x.shape[0], *waves.shape)], -1)
        return torch.exp(x @ projection.double().T - 0.5 * (x * x).sum(-1, keepdim=True))

    weights = features(q, query) @ features(k, key).transpose(-1, -2)
    if causal:
        weights = weights.tril()
    return weights @ v / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("causal", [False, True])
def test_gives_what_plain_pytorch_gives_and_its_gradients(causal, device):
    spec = FltSpec(2, 8, 6, RPE, features=16)
    q, k, v = tensors(device=device)
    parameters = spec.initial_parameters() + 0.1 * torch.randn(2, spec.parameter_count())
    parameters, projection = parameters.to(device), spec.draw_projection().to(device)
    base, upstream = spec.draw_frequencies().to(device), torch.randn(2, 2, 20, 6).to(device)
    results = []
    for run in (
        lambda *x: flt_attention(
            *x[:3], None, RPE, parameters=x[3], projection=x[4], base=base, causal=causal,
            features=16,
        ),
        lambda *x: plainly(*x[:3], spec, x[3], x[4], base, causal),
    ):  # fmt: skip
        inputs = [x.clone().requires_grad_() for x in (q, k, v, parameters, projection)]
        out = run(*inputs)
        (out * upstream).sum().backward()
        results.append([out.detach(), *(x.grad for x in inputs)])
    for actual, expected in zip(*results):
        scale = float(expected.double().square().mean().sqrt())
        assert float((actual.double() - expected.double()).abs().max()) <= 1e-4 * scale


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("learned_projection", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("dtype", "of_outputs", "of_gradients"),
    [
        (torch.float32, 1e-5, 1e-4),
        # Both round what they write, of which some numbers fall to the other side.
        (torch.float16, 1e-3, 2e-3),
        (torch.bfloat16, 5e-3, 2e-2),
    ],
)
@pytest.mark.parametrize(("dim", "features", "waves"), [(8, 16, 6), (64, 64, 32)])
def test_a_gpu_gives_the_outputs_and_gradients_of_the_cpu(
    dim, features, waves, dtype, of_outputs, of_gradients, causal, learned_projection
):
    q, k, v = (0.5 * x for x in tensors(length=300, dim=dim, width=dim, dtype=dtype))
    rpe = dataclasses.replace(RPE, waves=waves, norm_max=0.5)
    spec = FltSpec(2, dim, dim, rpe, features=features)
    learned = spec.initial_parameters(), spec.draw_projection()
    base, upstream = spec.draw_frequencies(), torch.randn(q.shape).to(dtype)
    results = []
    for place in ("cpu", "cuda"):
        inputs = [x.clone().to(place).requires_grad_() for x in (q, k, v, *learned)]
        inputs[4].requires_grad_(learned_projection)
        out = flt_attention(
            *inputs[:3], None, rpe, parameters=inputs[3], projection=inputs[4],
            base=base.to(place), causal=causal, features=features,
        )  # fmt: skip
        (out * upstream.to(place)).sum().backward()
        assert out.device.type == place
        assert all(x.grad.device.type == place for x in inputs if x.requires_grad)
        results.append([out.detach(), *(x.grad for x in inputs if x.requires_grad)])
    assert distance(results[1][0], results[0][0]) <= of_outputs
    for actual, expected in zip(results[1][1:], results[0][1:]):
        assert distance(actual, expected) <= of_gradients


def test_takes_sixteen_bit_tensors_and_strides(device):
    q, k, v = tensors(dtype=torch.bfloat16, device=device)
    swapped = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    out = flt_attention(*swapped, None, RPE)
    assert out.dtype == torch.bfloat16
    exact = flt_attention(q.float(), k.float(), v.float(), None, RPE)
    assert torch.allclose(out.float(), exact, atol=0.02, rtol=0.01)


def test_a_stream_goes_on_where_it_stopped(device):
    q, k, v = tensors(length=50, device=device)
    spec = FltSpec(2, 8, 6, RPE)
    whole = flt_attention(q, k, v, None, RPE, causal=True)
    state = initial_state(spec, 2, device)
    at = torch.arange(50.0, device=device)
    parts = [
        flt_attention(
            q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], at[a:b], RPE, causal=True, state=state
        )
        for a, b in ((0, 7), (7, 40), (40, 50))
    ]
    assert torch.allclose(torch.cat(parts, 2), whole, atol=1e-5)


def test_padding_is_not_seen(device):
    q, k, v = tensors(device=device)
    mask = torch.ones(2, 20, dtype=torch.bool, device=device)
    mask[:, 15:] = False
    short = flt_attention(q[:, :, :15], k[:, :, :15], v[:, :, :15], None, RPE)
    out = flt_attention(q, k, v, None, RPE, mask=mask)
    assert torch.allclose(out[:, :, :15], short, atol=1e-6)
    assert float(out[:, :, 15:].abs().max()) == 0


def test_the_module_trains_its_encoding_and_is_saved_whole(device):
    torch.manual_seed(0)
    module = FLTAttention(16, heads=2, rpe=Rpe("local_box", waves=8), features=16).to(device)
    x = torch.randn(3, 10, 16).to(device)
    module(x).square().sum().backward()
    assert float(module.rpe_parameters.grad.abs().max()) > 0
    other = FLTAttention(16, heads=2, rpe=Rpe("local_box", waves=8), features=16, seed=5).to(device)
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(x), other(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: x.update(positions=torch.zeros(7)),
            r"positions is \[7, 1\], expected \[20, 1\]",
        ),
        (
            lambda x: x.update(k=x["k"][:, :, :19]),
            r"k is \[2, 2, 19, 8\], expected \[2, 2, 20, 8\]",
        ),
        (lambda x: x.update(k=x["k"].double()), "k is neither float32 nor bfloat16 nor float16"),
        (lambda x: x.update(q=x["q"].double()), r"q is torch\.float64"),
        (lambda x: x.update(rpe=Rpe("fourier")), "unknown positional encoding: fourier"),
        (lambda x: x.update(rpe=Rpe(form="both")), "unknown form: 'both'"),
        (lambda x: x.update(features=1000), "features is 1000, expected 1 to 256"),
        (lambda x: x["v"].fill_(float("nan")), "v has 120 numbers that are NaN or infinite"),
    ],
)
def test_says_what_is_wrong(change, message, device):
    q, k, v = tensors(device=device)
    arguments = {"q": q, "k": k, "v": v, "positions": None, "rpe": RPE}
    change(arguments)
    with pytest.raises(InvalidRequestError, match=message):
        flt_attention(**arguments)
