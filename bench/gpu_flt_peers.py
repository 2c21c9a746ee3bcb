"""Measures on a GPU what FLT attention is compared with.

    gpu_flt_peers.py [--device cuda] [--lengths 1024 ...] [--peers SDPA ...] [--types bfloat16 ...]
        [--masks causal ...] [--seconds 170]
        [--start FILE --lock FILE --ready FILE]

Prints a line of JSON for each figure, for batch 1 and 8 heads of 64 as flt_bench has them, of the
forward pass and of both passes: PyTorch's scaled_dot_product_attention; FLT written plainly in
PyTorch, compiled, in a CUDA graph; FlexAttention with the same mask as a score_mod; and, where the
package `fla` is installed, its Triton kernel of linear attention, which has no mask and is given
its features. A line of a copy on the device says what bytes cost. Figures for which no time is left
are named in lines with the key `skipped`. Several of this program may compile side by side: with
--start each makes all its calls ready within its seconds, says so by making the file --ready, and
times them when the other file is there, one program after the other, which --lock is for. On the
CPU nothing is compiled; that is for trying this script.
"""

import argparse
import contextlib
import fcntl
import importlib.util
import json
import math
import os
import statistics
import time

import torch

PEERS = ["SDPA", "compiled FLT", "FlexAttention", "fla"]
MASKS = ["none", "causal"]
HEADS, DIM, FEATURES, WAVES = 8, 64, 64, 32
CHUNK = 64
QUADRATIC_MAX = {"bfloat16": 65536, "float32": 16384}
LINEAR_MAX = 262144  # Of both passes in PyTorch, which keeps what it forms.
WARM_UP, CALLS, SECONDS = 3, 20, 0.3


def milliseconds(call, device):
    """Returns the median and the least time of a call."""
    times = []
    call()
    begun = time.perf_counter()
    while len(times) < WARM_UP + CALLS:
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        else:
            started = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - started))
        if time.perf_counter() - begun > SECONDS and len(times) > WARM_UP:
            break
    times = times[WARM_UP:]
    return statistics.median(times), min(times)


def features(x, waves, projection):
    """Returns FAVOR+ features of rows with waves appended, relative to the greatest."""
    x = torch.cat([x.float() * DIM**-0.25, waves.expand(*x.shape[:2], *waves.shape)], -1)
    logits = x @ projection.T - 0.5 * (x * x).sum(-1, keepdim=True)
    return torch.exp(logits - logits.detach().amax())


def flt(q, k, v, weights, frequencies, projection, causal):
    """FLT attention, causal in chunks, with learned waves."""
    batch, heads, length, _ = q.shape
    positions = torch.arange(length, device=q.device, dtype=torch.float32)
    angle = 2 * math.pi * positions[:, None] * frequencies
    waves = weights.sqrt() * torch.stack([angle.cos(), angle.sin()])
    waves = torch.cat([waves[0], waves[1]], -1)
    phi_q, phi_k, values = features(q, waves, projection), features(k, waves, projection), v.float()
    if not causal:
        content = phi_k.transpose(-1, -2) @ values
        return (phi_q @ content / (phi_q @ phi_k.sum(2)[..., None])).to(v.dtype)
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
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()
    replay = graph.replay
    # The graph works on what `call` holds.
    return lambda: (replay(), kept, call)[1]


def flex(tensors, frequencies, weights, causal):
    """Returns a call of FlexAttention with the mask as a table of offsets."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    length, device = tensors[0].shape[2], tensors[0].device
    offsets = torch.arange(1 - length, length, device=device, dtype=torch.float64)
    angle = 2 * math.pi * offsets[:, None] * frequencies.double()
    table = (angle.cos() @ weights.double()).float()

    def add_mask(score, _batch, _head, query, key):
        return score + table[query - key + length - 1]

    block_mask = None
    if causal:
        block_mask = create_block_mask(
            lambda _b, _h, query, key: query >= key, None, None, length, length, device=device
        )
    compiled = torch.compile(flex_attention)
    # Its own choice of blocks does not fit the shared memory with a table beside them.
    options = {"BLOCK_M": 64, "BLOCK_N": 64, "num_stages": 2}
    options |= {"BLOCK_M1": 32, "BLOCK_N1": 64, "BLOCK_M2": 64, "BLOCK_N2": 32}
    return lambda q, k, v: compiled(
        q, k, v, score_mod=add_mask, block_mask=block_mask, kernel_options=options
    )


def fla_attention(causal, projection):
    """Returns a call of fla's linear attention, with features as they are made above; or None."""
    if not causal or importlib.util.find_spec("fla") is None:
        return None
    from fla.ops.linear_attn import chunk_linear_attn

    def run(q, k, v):
        nothing = torch.zeros(q.shape[2], 2 * WAVES, device=q.device)
        phi_q, phi_k = (features(x, nothing, projection).to(v.dtype) for x in (q, k))
        swapped = [x.transpose(1, 2) for x in (phi_q, phi_k, v)]
        return chunk_linear_attn(*swapped, scale=1.0, normalize=True)[0].transpose(1, 2)

    return run


def copied_bytes_per_second(device):
    """Returns the bytes that a copy on the device reads and writes in a second."""
    numbers = torch.zeros(1 << (28 if device == "cuda" else 20), device=device)
    other = torch.empty_like(numbers)
    median, _ = milliseconds(lambda: other.copy_(numbers), device)
    return 2 * numbers.numel() * numbers.element_size() / median * 1e3


@contextlib.contextmanager
def turn(path):
    """Holds the lock of a file, unless it is None."""
    if path is None:
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Measurement:
    """Prints times until the time is used up."""

    def __init__(self, arguments):
        """Starts the clock."""
        self.device, self.peers = arguments.device, arguments.peers
        self.end = time.perf_counter() + arguments.seconds
        self.start, self.lock, self.told = arguments.start, arguments.lock, arguments.ready
        self.ready = []

    def __call__(self, name, make, **of_call):
        """Prints the time of what `make` returns, or keeps it; errors are printed in its place."""
        if name not in self.peers:
            return
        line = {"flt": name, **of_call}
        if time.perf_counter() > self.end:
            print(json.dumps({**line, "skipped": "no time left"}), flush=True)
            return
        try:
            call = make()
            call()  # Compiles it.
        except Exception as error:
            self.skip(line, error)
            return
        if self.start is None:
            self.time(line, call)
        else:
            self.ready.append((line, call))

    def time(self, line, call):
        """Prints the time of a call."""
        try:
            median, least = milliseconds(call, self.device)
        except Exception as error:
            self.skip(line, error)
            return
        print(json.dumps({**line, "median_ms": median, "shortest_ms": least}), flush=True)

    def skip(self, line, error):
        """Prints an error in the place of a time."""
        what = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        print(json.dumps({**line, "skipped": what}), flush=True)

    def finish(self):
        """Prints the times of all that is kept."""
        if self.start is None:
            return
        if self.device == "cuda":
            torch.cuda.synchronize()
        if self.told is not None:
            open(self.told, "w").close()
        while not os.path.exists(self.start):
            time.sleep(0.1)
        with turn(self.lock):
            for line, call in self.ready:
                self.time(line, call)


def both_passes(run, tensors, learned):
    """Returns a call of both passes of run(*tensors)."""
    upstream = torch.randn_like(tensors[2])
    inputs = [*tensors, *learned]

    def call():
        return torch.autograd.grad(run(*tensors), inputs, upstream)

    return call


def measure_all(measure, device, kind, length, causal, plain, learned, projection):
    """Measures all peers for one shape."""
    shape = (1, HEADS, length, DIM)
    weights, frequencies = learned
    for backward in (False, True):
        tensors = [
            0.5 * torch.randn(shape, device=device, dtype=getattr(torch, kind)) for _ in range(3)
        ]
        for tensor in tensors:
            tensor.requires_grad_(backward)
        of_call = {
            "length": length,
            "type": kind,
            "causal": causal,
            "pass": "forward and backward" if backward else "forward",
        }

        def step(run, of_kernel=(), tensors=tensors, backward=backward):
            if backward:
                return both_passes(run, tensors, of_kernel)
            return torch.no_grad()(lambda: run(*tensors))

        def ours(q, k, v):
            return plain(q, k, v, weights, frequencies, projection, causal)

        if not backward or length <= LINEAR_MAX:
            measure(
                "compiled FLT",
                lambda step=step, ours=ours: graphed(step(ours, (weights, frequencies)), device),
                **of_call,
            )
        fla = fla_attention(causal, projection)
        if fla is not None:
            measure("fla", lambda step=step, fla=fla: step(fla), **of_call)
        if length > QUADRATIC_MAX[kind]:
            continue

        def exact(q, k, v):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

        measure("SDPA", lambda step=step, exact=exact: step(exact), **of_call)
        if device == "cuda" and length % 1024 == 0:
            measure(
                "FlexAttention",
                lambda step=step, tensors=tensors: step(
                    flex(tensors, frequencies.detach(), weights.detach(), causal)
                ),
                **of_call,
            )


def main():
    """Measures all peers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[65536, 1024, 16384, 1048576, 4096, 262144]
    )
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--types", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--masks", nargs="+", default=MASKS, choices=MASKS)
    parser.add_argument("--seconds", type=float, default=170)
    parser.add_argument("--start")
    parser.add_argument("--lock")
    parser.add_argument("--ready")
    arguments = parser.parse_args()
    device = arguments.device
    measure = Measurement(arguments)
    torch.manual_seed(0)
    if device == "cuda":
        torch._dynamo.config.cache_size_limit = 64
    projection = torch.randn(FEATURES, DIM + 2 * WAVES, device=device)
    projection *= math.sqrt(DIM + 2 * WAVES) / projection.norm(dim=-1, keepdim=True)
    weights = torch.full((WAVES,), 0.3 / WAVES, device=device, requires_grad=True)
    frequencies = (0.02 * torch.randn(WAVES, device=device)).requires_grad_()
    plain = torch.compile(flt, dynamic=True) if device == "cuda" else flt
    for length in arguments.lengths:
        for kind in arguments.types:
            for mask in arguments.masks:
                causal = mask == "causal"
                measure_all(
                    measure, device, kind, length, causal, plain, (weights, frequencies), projection
                )
    measure.finish()
    with turn(arguments.lock):
        line = {"flt": "copy", "bytes_per_second": copied_bytes_per_second(device)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
