"""Times FLT attention on the CPU against PyTorch, in one run, by processor time on one thread.

    MNEMOSYNE_FLT_LIBRARY=build/release/lib/libmnemosyne_flt.so PYTHONPATH=client/python/src \
        /usr/bin/python3 bench/compare_flt.py

Peers: the same attention written plainly in PyTorch (causal in chunks of 64), and exact softmax
attention, where its matrix fits. Floors: the multiply-adds at the rate of a matrix product, and the
bytes at the rate of a copy, both measured here; `--rate` gives the first where PyTorch's own
product is slow, as Debian's is, whose BLAS is the plain one. The shortest of some runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from mnemosyne_client.flt import FltSpec, Rpe, flt_attention

DIM, WAVES, FEATURES = 64, 32, 64


def seconds(work: Callable[[], object], budget: float) -> float:
    """The shortest processor time of runs that take about `budget` seconds together."""
    best, spent = float("inf"), 0.0
    while spent < budget:
        started = time.thread_time()
        work()
        took = time.thread_time() - started
        best, spent = min(best, took), spent + took
    return best


def waves_of(positions: torch.Tensor, frequencies: torch.Tensor, weight: float) -> torch.Tensor:
    """Waves of an even mask with equal weights."""
    angle = 2 * torch.pi * positions[:, None] * frequencies
    return weight**0.5 * torch.cat([angle.cos(), angle.sin()], -1)


def features(x: torch.Tensor, waves: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    """FAVOR+ with waves appended."""
    x = torch.cat([x * DIM**-0.25, waves.expand(*x.shape[:2], *waves.shape)], -1)
    logits = x @ projection.T - 0.5 * (x * x).sum(-1, keepdim=True)
    return torch.exp(logits - logits.amax())


def plain(q, k, v, waves, projection, causal: bool) -> torch.Tensor:
    """FLT attention in PyTorch."""
    phi_q, phi_k = features(q, waves, projection), features(k, waves, projection)
    if not causal:
        content = phi_k.transpose(-1, -2) @ v
        return phi_q @ content / (phi_q @ phi_k.sum(2)[..., None])
    batch, heads, length, _ = q.shape
    parts = [x.view(batch, heads, length // 64, 64, -1) for x in (phi_q, phi_k, v)]
    phi_q, phi_k, v = parts
    content = (phi_k.transpose(-1, -2) @ v).cumsum(2)
    normalizer = phi_k.sum(3).cumsum(2)
    content = torch.nn.functional.pad(content[:, :, :-1], (0, 0, 0, 0, 1, 0))
    normalizer = torch.nn.functional.pad(normalizer[:, :, :-1], (0, 0, 1, 0))
    weights = (phi_q @ phi_k.transpose(-1, -2)).tril()
    above = weights @ v + phi_q @ content
    below = weights.sum(-1) + (phi_q * normalizer[:, :, :, None]).sum(-1)
    return (above / below[..., None]).view(batch, heads, length, -1)


def softmax(q, k, v, causal: bool) -> torch.Tensor:
    """Exact attention without positions."""
    logits = q @ k.transpose(-1, -2) * DIM**-0.5
    if causal:
        logits = logits.masked_fill(~torch.ones(logits.shape[-2:]).tril().bool(), -torch.inf)
    return torch.softmax(logits, -1) @ v


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384, 65536])
    parser.add_argument("--budget", type=float, default=1.0, help="seconds a figure")
    parser.add_argument("--rate", type=float, help="multiply-adds a second of a good product")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    heads, budget = arguments.heads, arguments.budget
    a = torch.randn(1024, 1024)
    rate = 1024**3 / seconds(lambda: a @ a, budget)
    large = torch.randn(1 << 24)
    target = torch.empty_like(large)
    copy = 2 * large.numel() * 4 / seconds(lambda: target.copy_(large), budget)
    own = rate
    rate = max(rate, arguments.rate or 0)
    print(
        f"multiply-adds a second: PyTorch's product {own / 1e9:.1f} G, the floor's "
        f"{rate / 1e9:.1f} G; copy {copy / 1e9:.1f} GB a second"
    )
    rpe = Rpe("shift_invariant", waves=WAVES, norm_max=0.0)
    spec = FltSpec(heads, DIM, DIM, rpe, features=FEATURES)
    projection, base = spec.draw_projection(), spec.draw_frequencies()
    parameters = torch.tensor([[0.3, -4.0]]).repeat(heads, 1)
    frequencies = base[:, 0] * torch.exp(torch.tensor(-2.0)) / (2 * torch.pi)
    print(
        "| length | causal | pass | ours, ns a row and head | PyTorch | softmax | share of floor |"
    )
    print("|---|---|---|---|---|---|---|")
    for length in arguments.lengths:
        for causal in (False, True):
            q, k, v = (0.5 * torch.randn(1, heads, length, DIM) for _ in range(3))
            waves = waves_of(torch.arange(float(length)), frequencies, 0.3 / WAVES)

            def ours(q, k, v, causal=causal):
                return flt_attention(
                    q, k, v, None, rpe, parameters=parameters, projection=projection, base=base,
                    causal=causal, features=FEATURES, threads=1,
                )  # fmt: skip

            def theirs(q, k, v, causal=causal, waves=waves):
                return plain(q, k, v, waves, projection, causal)

            error = (ours(q, k, v) - theirs(q, k, v)).abs().max() / v.std()
            assert error < 2e-3, f"answers differ by {error}"
            inputs = [x.clone().requires_grad_() for x in (q, k, v)]
            rows = heads * length
            inner = DIM + 2 * WAVES
            for backward in (False, True):
                if backward and length > 16384:
                    continue

                def run(attention, backward=backward, inputs=inputs, plainly=(q, k, v)):
                    if backward:
                        attention(*inputs).sum().backward()
                    else:
                        attention(*plainly)

                def exactly(q, k, v, causal=causal):
                    return softmax(q, k, v, causal)

                figures = [
                    seconds(lambda run=run: run(ours), budget),
                    seconds(lambda run=run: run(theirs), budget),
                ]
                exact = (
                    seconds(lambda run=run, exactly=exactly: run(exactly), budget)
                    if length <= 4096
                    else float("nan")
                )
                # Features of q and k, sums, and reads; the backward pass makes the features three
                # times more, two products with the projection, and six with the sums.
                products = 2 * inner * FEATURES + 2 * FEATURES * DIM
                if backward:
                    products += 5 * inner * FEATURES + 6 * FEATURES * DIM
                bytes_moved = 16 * DIM * (3 if backward else 1)
                floor = max(products / rate, bytes_moved / copy)
                name = "forward and backward" if backward else "forward"
                cells = [
                    str(length),
                    "yes" if causal else "no",
                    name,
                    f"{1e9 * figures[0] / rows:.0f}",
                    f"{figures[1] / figures[0]:.1f} x",
                    f"{exact / figures[0]:.0f} x" if length <= 4096 else "",
                    f"{floor * rows / figures[0]:.2f}",
                ]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
