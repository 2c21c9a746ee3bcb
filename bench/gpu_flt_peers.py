"""Measures on a GPU what FLT attention is compared with.

    gpu_flt_peers.py [--device cuda] [--lengths 1024 ...]

Prints a line of JSON for each figure, for batch 1 and 8 heads of 64 as flt_bench has them:
PyTorch's scaled_dot_product_attention; FLT written plainly in PyTorch, compiled, in a CUDA graph;
and, where PyTorch has it, FlexAttention with the same mask as a score_mod. On the CPU nothing is
compiled; that is for trying this script.
"""

import argparse
import importlib.util
import json
import math
import statistics
import time

import torch

HEADS, DIM, FEATURES, WAVES = 8, 64, 64, 32
CHUNK = 64
QUADRATIC_MAX = 65536
WARM_UP, CALLS = 3, 20


def milliseconds(call, device):
    """Returns the median and the least time of a call."""
    times = []
    for i in range(WARM_UP + CALLS):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            took = start.elapsed_time(end)
        else:
            started = time.perf_counter()
            call()
            took = 1e3 * (time.perf_counter() - started)
        if i >= WARM_UP:
            times.append(took)
    return statistics.median(times), min(times)


def features(x, waves, projection):
    """Returns FAVOR+ features of rows with waves appended, relative to the greatest."""
    x = torch.cat([x.float() * DIM**-0.25, waves.expand(*x.shape[:2], *waves.shape)], -1)
    logits = x @ projection.T - 0.5 * (x * x).sum(-1, keepdim=True)
    return torch.exp(logits - logits.amax())


def flt(q, k, v, waves, projection, causal):
    """FLT attention, causal in chunks."""
    phi_q, phi_k, values = features(q, waves, projection), features(k, waves, projection), v.float()
    if not causal:
        content = phi_k.transpose(-1, -2) @ values
        return (phi_q @ content / (phi_q @ phi_k.sum(2)[..., None])).to(v.dtype)
    batch, heads, length, _ = q.shape
    phi_q, phi_k, values = (
        x.reshape(batch, heads, length // CHUNK, CHUNK, -1) for x in (phi_q, phi_k, values)
    )
    content = (phi_k.transpose(-1, -2) @ values).cumsum(2)
    normalizer = phi_k.sum(3).cumsum(2)
    content = torch.nn.functional.pad(content[:, :, :-1], (0, 0, 0, 0, 1, 0))
    normalizer = torch.nn.functional.pad(normalizer[:, :, :-1], (0, 0, 1, 0))
    weights = (phi_q @ phi_k.transpose(-1, -2)).tril()
    above = weights @ values + phi_q @ content
    below = weights.sum(-1) + (phi_q * normalizer[:, :, :, None]).sum(-1)
    return (above / below[..., None]).reshape(batch, heads, length, -1).to(v.dtype)


def graphed(call, device):
    """Returns `call` as a replay of a CUDA graph."""
    if device != "cuda":
        return call
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def flex(q, k, v, frequencies, weight, causal):
    """Returns a call of FlexAttention with the mask as a table of offsets."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    length = q.shape[2]
    offsets = torch.arange(1 - length, length, device=q.device, dtype=torch.float64)
    angle = 2 * math.pi * offsets[:, None] * frequencies.double()
    table = (weight * angle.cos().sum(-1)).float()

    def add_mask(score, _batch, _head, query, key):
        return score + table[query - key + length - 1]

    block_mask = None
    if causal:
        block_mask = create_block_mask(
            lambda _b, _h, query, key: query >= key, None, None, length, length, device=q.device
        )
    compiled = torch.compile(flex_attention)
    return lambda: compiled(q, k, v, score_mod=add_mask, block_mask=block_mask)


def measure(name, call, device, length, kind, causal):
    """Prints the time of a peer."""
    median, least = milliseconds(call, device)
    figures = {"flt": name, "length": length, "type": kind, "causal": causal}
    print(json.dumps({**figures, "median_ms": median, "shortest_ms": least}), flush=True)


def main():
    """Measures all peers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[1024, 4096, 16384, 65536, 262144, 1048576]
    )
    arguments = parser.parse_args()
    device = arguments.device
    torch.manual_seed(0)
    projection = torch.randn(FEATURES, DIM + 2 * WAVES, device=device)
    projection *= math.sqrt(DIM + 2 * WAVES) / projection.norm(dim=-1, keepdim=True)
    frequencies = 0.02 * torch.randn(WAVES, device=device)
    weight = 0.3 / WAVES
    plain = torch.compile(flt) if device == "cuda" else flt
    has_flex = (
        device == "cuda"
        and importlib.util.find_spec("torch.nn.attention") is not None
        and importlib.util.find_spec("torch.nn.attention.flex_attention") is not None
    )
    for length in arguments.lengths:
        angle = 2 * math.pi * torch.arange(float(length), device=device)[:, None] * frequencies
        waves = weight**0.5 * torch.cat([angle.cos(), angle.sin()], -1)
        for kind in ("bfloat16", "float32"):
            shape = (1, HEADS, length, DIM)
            tensors = [
                0.5 * torch.randn(shape, device=device, dtype=getattr(torch, kind))
                for _ in range(3)
            ]
            for causal in (False, True):

                def run_flt(tensors=tensors, waves=waves, causal=causal):
                    return plain(*tensors, waves, projection, causal)

                def run_exact(tensors=tensors, causal=causal):
                    return torch.nn.functional.scaled_dot_product_attention(
                        *tensors, is_causal=causal
                    )

                with torch.no_grad():
                    compiled = graphed(run_flt, device)
                    measure("compiled FLT", compiled, device, length, kind, causal)
                    del compiled
                    if length > QUADRATIC_MAX:
                        continue
                    if hasattr(torch.nn.functional, "scaled_dot_product_attention"):
                        measure("SDPA", run_exact, device, length, kind, causal)
                    if has_flex:
                        call = flex(*tensors, frequencies, weight, causal)
                        measure("FlexAttention", call, device, length, kind, causal)
            del tensors


if __name__ == "__main__":
    main()
