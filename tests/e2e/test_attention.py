"""AttentionService of a real daemon, against numpy in float64."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mnemosyne_client import Client, Encoding, InvalidRequestError, Kernel, ResourceExhaustedError

HEADS, DIM, WIDTH, FEATURES, WAVES = 2, 8, 6, 16, 4
RANDOM = np.random.default_rng(0)
PROJECTION = RANDOM.normal(size=(FEATURES, DIM + 2 * WAVES)).astype(np.float32)
BASE = RANDOM.normal(size=(WAVES, 1)).astype(np.float32)
# A Gaussian kernel f(z) = a exp(-c z^2 / 2): an amplitude and a log precision a head.
PARAMETERS = np.array([[0.3, -1.0], [-0.2, 0.5]], np.float32)
ENCODING = Encoding("shift_invariant", PARAMETERS, waves=WAVES, base_frequencies=BASE, norm_max=0.0)


def arrays(length: int, batch: int = 2):
    shapes = ((batch, HEADS, length, DIM),) * 2 + ((batch, HEADS, length, WIDTH),)
    return [RANDOM.normal(size=shape).astype(np.float32) for shape in shapes]


def plainly(q, k, v, positions, causal=False):
    """FAVOR+ with the waves of the Gaussian kernels appended, over all pairs."""
    out = np.empty(v.shape)
    for head, (amplitude, log_precision) in enumerate(PARAMETERS.astype(float)):
        frequencies = BASE[:, 0].astype(float) * np.exp(0.5 * log_precision) / (2 * np.pi)
        weight = amplitude / WAVES
        angle = 2 * np.pi * np.outer(positions - positions[0], frequencies)
        root = np.sqrt(abs(weight))
        waves = np.concatenate([np.cos(angle), np.sin(angle)], -1)

        def features(x, waves):
            x = np.concatenate(
                [x * DIM**-0.25, np.broadcast_to(waves, (*x.shape[:2], 2 * WAVES))], -1
            )
            return np.exp(x @ PROJECTION.T.astype(float) - 0.5 * (x * x).sum(-1, keepdims=True))

        weights = features(q[:, head].astype(float), root * waves) @ np.swapaxes(
            features(k[:, head].astype(float), np.sign(weight) * root * waves), 1, 2
        )
        if causal:
            weights = np.tril(weights)
        out[:, head] = weights @ v[:, head] / weights.sum(-1, keepdims=True)
    return out


def kernel(**options) -> Kernel:
    return Kernel(encoding=ENCODING, features=FEATURES, projection=PROJECTION, **options)


@pytest.mark.parametrize("causal", [False, True])
def test_attends_as_numpy_does(client, causal):
    q, k, v = arrays(40)
    positions = np.cumsum(RANDOM.uniform(0.1, 1, 40)).astype(np.float32)
    answer = client.attend(q, k, v, positions, kernel=kernel(causal=causal))
    expected = plainly(q, k, v, positions.astype(float), causal)
    np.testing.assert_allclose(answer.out, expected, atol=2e-5 * expected.std())
    assert answer.rows == 2 * HEADS * 40
    assert answer.clamped_rows == 0


def test_a_causal_stream_goes_on_where_it_stopped(tcp_client):
    q, k, v = arrays(100)
    at = np.arange(100.0)
    whole = tcp_client.attend(q, k, v, kernel=kernel(causal=True)).out
    pieces, state = [], None
    with tcp_client.open_attention(kernel(causal=True), keep_state=True) as stream:
        for a, b in ((0, 1), (1, 60)):
            piece = [x[:, :, a:b] for x in (q, k, v)]
            answer = stream.attend(*piece, at[a:b], return_state=True)
            pieces.append(answer.out)
            state = answer.state
    # Another stream takes over.
    with tcp_client.open_attention(kernel(causal=True), keep_state=True) as stream:
        piece = [x[:, :, 60:] for x in (q, k, v)]
        pieces.append(stream.attend(*piece, at[60:], state=state).out)
    np.testing.assert_allclose(np.concatenate(pieces, 2), whole, atol=1e-5)


def test_large_blocks_travel_in_parts(tcp_client):
    q, k, v = arrays(20_000)
    whole = tcp_client.attend(q, k, v, kernel=kernel()).out
    small = tcp_client.attend(q, k, v, kernel=kernel(wire="bfloat16")).out
    assert whole.shape == v.shape
    assert np.abs(small - whole).max() < 0.05


def test_padding_is_not_seen(tcp_client):
    q, k, v = arrays(30)
    mask = np.ones((2, 30))
    mask[:, 20:] = 0
    q[:, :, 20:] = np.nan
    out = tcp_client.attend(q, k, v, kernel=kernel(), mask=mask).out
    short = tcp_client.attend(*[x[:, :, :20] for x in (q, k, v)], kernel=kernel()).out
    np.testing.assert_allclose(out[:, :, :20], short, atol=1e-6)
    assert np.all(out[:, :, 20:] == 0)


def test_lists_its_kernels(client):
    kernels = client.list_kernels()
    assert "favor_plus" in kernels.feature_maps
    assert "local_ball" in kernels.encodings
    assert kernels.dim_max == 128


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature_map": "cosine"}, "unknown feature map: cosine"),
        ({"features": 4000}, "features is 4000, expected 1 to 256"),
        ({"encoding": Encoding("fourier")}, "unknown positional encoding: fourier"),
        ({"encoding": Encoding("local_ball", PARAMETERS)}, "a ball needs positions of 3"),
        ({"encoding": Encoding("local_box", [1.0])}, "1 parameters of local_box for 2 heads"),
        ({"projection": [1.0]}, "the projection has 1 numbers|projection has 1 numbers"),
    ],
)
def test_says_what_is_wrong_with_a_kernel(tcp_client, change, message):
    with pytest.raises(InvalidRequestError, match=message) as error:
        tcp_client.attend(*arrays(5), kernel=Kernel(**change))
    assert error.value.reason == "INVALID_ATTENTION"


def test_says_what_is_wrong_with_numbers(tcp_client):
    q, k, v = arrays(5)
    k[1, 0, 2, 3] = np.inf
    with pytest.raises(InvalidRequestError, match=r"k has 1 numbers .* in batch entry 1, head 0"):
        tcp_client.attend(q, k, v, kernel=kernel())


def test_a_block_that_has_no_room_is_refused(own_daemon):
    daemon = own_daemon("--memory-max", "1MiB")
    with Client(daemon.tcp, wait_seconds=60, timeout=60) as client:
        client.attend(*arrays(10), kernel=kernel())
        with pytest.raises(ResourceExhaustedError):
            client.attend(*arrays(20_000), kernel=kernel())
        # What a refused or finished block held has come back.
        client.attend(*arrays(10), kernel=kernel())


def test_a_kernel_that_has_no_room_is_refused(own_daemon):
    daemon = own_daemon("--memory-max", "256KiB")
    rows = np.ones((1, 1, 4, 128), np.float32)
    with Client(daemon.tcp, wait_seconds=60, timeout=60) as client:
        with pytest.raises(ResourceExhaustedError):
            client.attend(rows, rows, rows, kernel=Kernel(features=256))
        client.attend(rows, rows, rows, kernel=Kernel(features=16))


def test_mnemosynectl_attends_on_files(daemon, tmp_path):
    q, k, v = arrays(30)
    for name, values in (("q", q), ("k", k), ("v", v.astype(np.float64))):
        np.save(tmp_path / f"{name}.npy", values)
    ctl = Path(os.environ["MNEMOSYNED"]).with_name("mnemosynectl")
    command = [ctl, "--address", daemon.tcp, "attend", "--causal", "--features", "32"]
    for name in ("q", "k", "v", "out"):
        command += [f"--{name}", tmp_path / f"{name}.npy"]
    encoding = ["--rpe", "shift_invariant", "--parameters", "0.4,-3", "--waves", "8"]

    told = subprocess.run([*command, *encoding], capture_output=True, text=True, check=False)

    assert told.returncode == 0, told.stderr
    out = np.load(tmp_path / "out.npy")
    with Client(daemon.tcp) as client:
        same = Encoding("shift_invariant", [[0.4, -3]] * HEADS, waves=8)
        expected = client.attend(
            q, k, v, kernel=Kernel(encoding=same, causal=True, features=32)
        ).out
    np.testing.assert_array_equal(out, expected)
    told = subprocess.run(
        [*command, "--rpe", "fourier"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 1
    assert "unknown positional encoding: fourier" in told.stderr
